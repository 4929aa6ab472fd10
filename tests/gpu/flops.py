"""What the exact savings save, counted and not timed: needs upstream's code, and no GPU.

python -m tests.gpu.flops --upstream DIR --configs DIR

Both transformers are built on PyTorch's meta device, where a pass costs nothing, and PyTorch counts. Upstream's sparse
tensors can't be had there: stage 2's blocks are counted on plain ones, which is the same arithmetic, without the
convolutions before and behind them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.gpu import upstream

STEPS = {"stage 1": 15, "stage 2": 8}
RESCALE_T, GUIDED_UNTIL = {"stage 1": 3.0, "stage 2": 1.0}, 0.5
"""Upstream's defaults, and the published stage 2's: guidance runs its second pass while t <= 0.5."""
PATCHES, POINTS = 1370, 1024
"""Tokens of a photo of 518 x 518 in patches of 14, and of a point map of 256 x 256 in patches of 8."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", type=Path, required=True, help="the folder with sam3d_objects in it")
    parser.add_argument("--configs", type=Path, required=True, help="the published configurations")
    parser.add_argument("--voxels", type=int, default=10_000, help="tokens of stage 2 times about 4.4")
    args = parser.parse_args()
    os.environ["LIDRA_SKIP_INIT"] = "true"
    sys.path.insert(0, str(args.upstream))
    upstream.leave_out("spconv", "flash_attn", "xformers")
    with torch.no_grad():
        report("stage 1", *stage_1(args.configs))
        report("stage 2", *stage_2(args.configs, round(args.voxels / 4.4)))


def report(stage: str, theirs: tuple[int, int], ours: tuple[int, int], once: int) -> None:
    """`theirs` and `ours`: FLOPs of a conditional and an unconditional pass; `once`: of an object."""
    steps, rescale = STEPS[stage], RESCALE_T[stage]
    times = [step / steps for step in range(steps)]
    guided = sum(t / (1 + (rescale - 1) * (1 - t)) <= GUIDED_UNTIL for t in times)
    before = steps * theirs[0] + guided * theirs[1]
    after = steps * ours[0] + guided * ours[1] + once
    print(
        f"{stage}: {steps} steps, {guided} of them guided: {before / 1e12:.1f} TFLOP as upstream, "
        f"{after / 1e12:.1f} with the exact savings: {before / after:.2f} times fewer"
    )


def stage_1(configs: Path) -> tuple[tuple[int, int], tuple[int, int], int]:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from stream_worker.models.sam3d.backbones import Structure

    config = OmegaConf.load(configs / "ss_generator.yaml")["module"]["generator"]["backbone"]
    with torch.device("meta"):
        backbone = instantiate(config).reverse_fn.backbone.eval()
        latents = {
            name: torch.empty(1, latent.pos_emb.shape[0], latent.input_layer.in_features)
            for name, latent in backbone.latent_mapping.items()
        }
        t, tokens = torch.empty(1), torch.empty(1, 4 * PATCHES + 2 * POINTS, config.reverse_fn.backbone.cond_channels)
        theirs = [counted(lambda cfg=cfg: backbone(latents, t, tokens, d=t, cfg=cfg)) for cfg in (False, True)]
        structure = Structure(backbone, graphs=False)
        once = counted(lambda: structure._keep(tokens))
        ours = [counted(lambda cfg=cfg: backbone(latents, t, tokens, d=t, cfg=cfg)) for cfg in (False, True)]
    return (theirs[0], theirs[1]), (ours[0], ours[1]), once


def stage_2(configs: Path, tokens_of_the_object: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    from omegaconf import OmegaConf
    from sam3d_objects.model.backbone.tdfy_dit.modules.sparse.transformer import ModulatedSparseTransformerCrossBlock

    from stream_worker.models.sam3d.attention import Guidance, replaced
    from stream_worker.models.sam3d.backbones import modulated

    config = OmegaConf.load(configs / "slat_generator.yaml")["module"]["generator"]["backbone"].reverse_fn.backbone
    with torch.device("meta"):
        make = ModulatedSparseTransformerCrossBlock
        blocks = torch.nn.ModuleList(
            make(config.model_channels, config.cond_channels, config.num_heads, qk_rms_norm=config.qk_rms_norm)
            for _ in range(config.num_blocks)
        ).half()
        guidance = Guidance()
        attentions = replaced(blocks, guidance)
        x = torch.empty(1, tokens_of_the_object, config.model_channels, dtype=torch.half)
        modulation = torch.empty(1, config.model_channels, dtype=torch.half)
        tokens = torch.empty(1, 4 * (PATCHES + 4), config.cond_channels, dtype=torch.half)  # with the four registers

        def keep() -> None:
            for attention in attentions:
                attention.keep(tokens)

        def run(unconditional: bool) -> None:
            guidance.unconditional = unconditional
            for block in blocks:
                modulated(block, x, modulation)

        first = counted(keep)
        once = counted(keep)  # the constant rows are there
        ours = [counted(lambda cfg=cfg: run(cfg)) for cfg in (False, True)]
    theirs = ours[0] + once  # of both passes: upstream attends to zeros as to anything else
    assert first > once
    return (theirs, theirs), (ours[0], ours[1]), once


def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
