"""A report looked at in a browser without a window: what can be seen of each result, and its picture."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WINDOWS = [(1440, 900), (1280, 720)]

# Shows every result as a click on it does, and measures whether its beginning lies in the window.
MEASURE = """
<script>
(async () => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  const measured = [];
  const measure = (name, kind) => {
    const frame = document.querySelector("#app .grow.h-screen.overflow-auto");
    frame.scrollTop = 0; frame.scrollLeft = 0;
    const outer = frame.getBoundingClientRect(), inner = frame.firstChild.getBoundingClientRect();
    const image = frame.querySelector("img"), drawn = image && image.getBoundingClientRect();
    measured.push({
      name, kind, above: inner.top - outer.top, left: inner.left - outer.left,
      height: inner.height, window: outer.height, width: inner.width,
      shown: image ? drawn.width / image.naturalWidth : null,
      ratio: image ? image.naturalHeight / image.naturalWidth : null,
    });
  };
  await wait(300);
  measure("start", "start");
  for (const [path, result] of Object.entries(results)) {
    const page = result.mime_type === "text/html" ? "html" : null;
    const kind = result.mime_type.startsWith("image") ? "img" : page;
    if (!kind) continue;
    app.setView({ content: kind, contentPath: result.data_uri });
    await wait(60);
    const image = document.querySelector("#app .grow.h-screen.overflow-auto img");
    while (image && !image.complete) await wait(50);
    measure(result.name, kind);
  }
  return measured;
})().catch(error => [String(error)]).then(measured => {
  const found = document.createElement("pre");
  found.id = "measured";
  found.textContent = JSON.stringify(measured);
  document.body.append(found);
});
</script>
"""


def _chromium(page: Path, window: tuple[int, int], *arguments: str, budget: int = 20_000) -> str:
    width, height = window
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--window-size={width},{height}", f"--virtual-time-budget={budget}", *arguments, page.as_uri()),
    ]
    # what it says of a missing bus or GPU is no matter
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def measure(report: Path, window: tuple[int, int], folder: Path) -> list[dict[str, Any]]:
    """Measure the start page and every image and page of a report, in pixels."""
    page = folder / "measured.html"
    before, _, after = report.read_text(encoding="utf-8").rpartition("</body>")
    page.write_text(f"{before}{MEASURE}</body>{after}", encoding="utf-8")
    text = _chromium(page, window, "--dump-dom")
    found = re.search(r'<pre id="measured">(.*?)</pre>', text, flags=re.DOTALL)
    assert found, "the page's script did not end"
    return json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


def picture(page: Path, window: tuple[int, int], png: Path) -> Path:
    """What a person sees of a page."""
    _chromium(page, window, f"--screenshot={png}", budget=5_000)
    return png
