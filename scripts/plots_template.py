"""Page template with which `dvc plots show` and `dvc plots diff` work without a network. `make` runs this script once.

DVC's default page loads Vega from a CDN. The script writes a template that includes Vega to `.dvc/plots.html` and sets
it in `.dvc/config.local`. Git ignores both files: DVC fails if the configured template does not exist, so a clone in
which `make` never ran must use the default page.
"""

import subprocess
import sys
from pathlib import Path

import vl_convert

VEGA_LITE = "5.21"
"""Newest release of the major version that DVC 3 uses."""

EXPORTS = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"
"""Global names that DVC's pages use."""

TEMPLATE = Path(".dvc/plots.html")

# DVC replaces the names in double braces. Its {scripts}, the URLs of the CDN, is left out.
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
    """Write the template and configure DVC to use it. Run in the repository root."""
    vega = vl_convert.javascript_bundle(EXPORTS, vl_version=VEGA_LITE)
    temporary = TEMPLATE.with_suffix(".tmp")
    temporary.write_text(PAGE.format(vega=vega), encoding="utf-8")
    settings = ["config", "--quiet", "--local", "plots.html_template", TEMPLATE.name]
    subprocess.run([sys.executable, "-m", "dvc", *settings], check=True)
    temporary.replace(TEMPLATE)  # last: make regards the existing file as complete


if __name__ == "__main__":
    main()
