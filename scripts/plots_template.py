"""Lets `dvc plots show` and `dvc plots diff` draw without a network. `make` runs this once.

DVC's own pages load Vega from a CDN. This writes a page template with Vega inside to `.dvc/plots.html` and names it
in `.dvc/config.local`. Both are ignored by git: DVC stops at a template that is named but missing, so a clone in
which `make` never ran must not name it; there the pages take the CDN.
"""

import subprocess
import sys
from pathlib import Path

import vl_convert

VEGA_LITE = "5.21"
"""Newest of the major version that DVC 3 writes its plots for."""

OFFER = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"
"""What DVC's pages call."""

TEMPLATE = Path(".dvc/plots.html")

# In double braces: what DVC fills in. Left out is its {scripts}: the CDN's addresses.
PAGE = """<!DOCTYPE html>
<html>
<head>
    <meta charset="utf-8">
    {{refresh_tag}}
    <title>Plots</title>
    <script>{vega}</script>
</head>
<body>
    {{plot_divs}}
</body>
</html>
"""


def main() -> None:
    """Write the template and tell DVC of it. To be run from the top of the repository."""
    vega = vl_convert.javascript_bundle(OFFER, vl_version=VEGA_LITE)
    half = TEMPLATE.with_suffix(".half")
    half.write_text(PAGE.format(vega=vega), encoding="utf-8")
    settings = ["config", "--quiet", "--local", "plots.html_template", TEMPLATE.name]
    subprocess.run([sys.executable, "-m", "dvc", *settings], check=True)
    half.replace(TEMPLATE)  # last: that it is there tells make that all is done


if __name__ == "__main__":
    main()
