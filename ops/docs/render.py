"""The AsyncAPI document as one HTML file that opens anywhere, also offline: `make docs`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ops.docs.packages import PAGE, PackageError

DOCUMENT = Path(__file__).parents[2] / "schemas" / "asyncapi.yaml"


def bundled(path: Path) -> dict[str, Any]:
    """The document with the files that it refers to in it: schemas as components, examples where they are named.

    Types that several schemas have are the same type of `events.py`, so they become one component.
    """
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    schemas: dict[str, Any] = content["components"].setdefault("schemas", {})

    def embed(node: Any) -> Any:
        if isinstance(node, list):
            return [embed(item) for item in node]
        if not isinstance(node, dict):
            return node
        target = node.get("$ref")
        if isinstance(target, str) and target.startswith("./"):
            return adopt(target)
        if isinstance(target, str) and target.startswith("#/$defs/"):
            node = {**node, "$ref": target.replace("#/$defs/", "#/components/schemas/")}
        return {name: embed(value) for name, value in node.items()}

    def adopt(target: str) -> Any:
        value = json.loads((path.parent / target).read_bytes())
        if not target.endswith(".schema.json"):
            return value
        del value["$id"]  # its references are to this document's components now
        for name, schema in value.pop("$defs", {}).items():
            schemas[name] = embed(schema)
        name = Path(target).name.removesuffix(".schema.json")
        schemas[name] = embed(value)
        return {"$ref": f"#/components/schemas/{name}"}

    return embed(content)


def page(content: dict[str, Any]) -> str:
    """The document as HTML. Raises PackageError where the page's parts can't be had."""
    template = Template(Path(__file__).with_name("asyncapi.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=PAGE.file("styles/default.min.css").decode(),
        script=PAGE.file("browser/standalone/index.js").decode(),
        document=json.dumps(content).replace("<", "\\u003c"),
    )


def main(folder: Path) -> None:
    """Write `asyncapi.html` into a folder, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "asyncapi.html"
    try:
        file.write_text(page(bundled(DOCUMENT)), encoding="utf-8")
    except PackageError as error:
        sys.exit(f"no page: {error}")
    print(f"{file} ({file.stat().st_size // 1000} kB): open it in a browser")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
