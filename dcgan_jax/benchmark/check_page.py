"""The page of `gpu_check`: one HTML file that needs no other."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_STYLE = """
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2rem; border-top: 1px solid #ccc; padding-top: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
img { max-width: 100%; image-rendering: pixelated } code { font-size: .85rem; overflow-wrap: anywhere }
.bad { color: #a33 }
"""
_TITLES = {
    "device": "Device",
    "jit_and_cpu": "One step here and on the CPU",
    "jit_and_eager": "One step compiled and operation by operation",
    "compiled": "The compiled step of the paper's network",
    "profile": "Kernels that take the longest",
    "products": "Matrix products",
    "speeds": "Training steps on random images that stay on the device",
    "training": "A real run",
    "skipped": "Not measured",
}
# Columns of tables whose rows hold more than a page should show: key, head.
_COLUMNS = {
    "speeds": {
        "network": "network",
        "batch_size": "batch",
        "precision": "precision",
        "system": "system",
        "steps_per_call": "steps a call",
        "images_per_second": "images/s",
        "images_per_second_min": "least",
        "images_per_second_max": "most",
        "ratio_to_torch": "times PyTorch",
        "share_of_product": "of a matrix product's FLOP/s",
        "ready_seconds": "first step after s",
        "peak_memory_bytes": "peak memory",
        "device": "device",
        "settings": "settings",
    },
}


def page(results: Mapping[str, Any], folder: Path) -> str:
    """The whole page.

    Args:
      results: what results.json holds; parts that are not there yet are left out.
      folder: where the sheet is that `results` names.
    """
    device = results.get("device", {})
    title = html.escape(f"dcgan_jax on {device.get('device', 'a device')}, jax {device.get('jax', '?')}")
    sections = [_section(name, results[name], folder) for name in _TITLES if name in results]
    about = ", ".join(f"{name} {results[name]}" for name in ("created", "finished", "seconds") if name in results)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n<p>{html.escape(about)}</p>\n"
        + "\n".join(sections)
        + f"\n<p><code>{html.escape(str(results.get('command', '')))}</code></p>\n</html>\n"
    )


def summary(result: Any) -> str:
    """A line for the console: names and values, what is nested left out."""
    if not isinstance(result, Mapping):
        return text("", result)
    shown = {name: value for name, value in result.items() if not isinstance(value, dict | list)}
    return ", ".join(f"{name} {text(name, value)}" for name, value in shown.items())


def text(name: str, value: Any) -> str:
    """A value as the page shows it; `name` gives its unit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if name.startswith("share") and isinstance(value, float):
        return f"{value:.1%}"
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    if name.endswith("flops") or name == "flops_by_definition":
        return f"{value / 1e12:.4g} T"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(key, inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text(name, inner) for inner in value)
    return str(value)


def _section(name: str, result: Any, folder: Path) -> str:
    if isinstance(result, list):
        body = _table(name, result)
    else:
        body = _list({key: value for key, value in result.items() if key != "kernels"})
        if result.get("kernels"):
            body += _table("kernels", result["kernels"])
        sheet = folder / result["sheet"] if result.get("sheet") else None
        if sheet is not None and sheet.exists():
            content = base64.b64encode(sheet.read_bytes()).decode()
            body += f'<p><img alt="samples" src="data:image/png;base64,{content}"></p>'
    return f"<h2>{_TITLES[name]}</h2>\n{body}"


def _list(result: Mapping[str, Any]) -> str:
    lines = []
    for key, value in result.items():
        bad = ' class="bad"' if key == "failed" or value is False else ""
        lines.append(f"<tr{bad}><td>{html.escape(key)}</td><td>{html.escape(text(key, value))}</td></tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = _COLUMNS.get(name) or {key: key.replace("_", " ") for key in rows[0]}
    columns = {key: head for key, head in columns.items() if any(row.get(key) is not None for row in rows)}
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in columns.values())
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text(key, row.get(key)))}</td>" for key in columns) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{heads}</tr>{lines}</table></div>'
