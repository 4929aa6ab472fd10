"""What a model's process gets of our environment."""

from __future__ import annotations

from stream_worker.models.environment import child_environment, compute_limits

OURS = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "TORCH_HOME": "/cache",
    "PYTHONPATH": "/ours",
    "STREAM_WORKER_STORE__SECRET_KEY": "s3cret",
    "HF_TOKEN": "s3cret",
}


def test_secrets_stay_with_us() -> None:
    assert "s3cret" not in child_environment(OURS, {}, same_interpreter=True).values()


def test_what_a_library_needs_goes_along_and_extras_win() -> None:
    environment = child_environment(OURS, {"PATH": "/usr/bin", "MORE": "1"}, same_interpreter=True)
    assert environment["PATH"] == "/usr/bin"
    assert {name: environment[name] for name in ("LC_ALL", "TORCH_HOME", "PYTHONPATH", "MORE")} == {
        "LC_ALL": "C.UTF-8",
        "TORCH_HOME": "/cache",
        "PYTHONPATH": "/ours",
        "MORE": "1",
    }


def test_another_interpreter_does_not_get_our_packages() -> None:
    assert "PYTHONPATH" not in child_environment(OURS, {}, same_interpreter=False)


def test_every_pool_of_threads_is_limited() -> None:
    limits = compute_limits(threads=3)
    pools = {name for name in limits if limits[name] == "3"}
    assert {name.split("_")[0] for name in pools} == {"OMP", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR"}
    assert limits["SPCONV_ALGO_TIME_LIMIT"] == "100"
    assert limits["SPCONV_TUNE_DEVICE"] == "0"


def test_a_device_is_the_only_one_that_its_child_sees() -> None:
    assert compute_limits(device="cuda:3")["CUDA_VISIBLE_DEVICES"] == "3"
    assert compute_limits(device="cuda:GPU-6f1c")["CUDA_VISIBLE_DEVICES"] == "GPU-6f1c"
    assert compute_limits(device="cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in compute_limits(device="auto")
