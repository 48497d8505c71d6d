"""Build page.html, the template of `dvc plots`, with Vega included so that it works offline.

DVC's default page loads Vega from a CDN. Run `make plots-page` after an update of vl-convert.
"""

from pathlib import Path

import vl_convert

VEGA_LITE = "5.21"  # DVC's templates are written for version 5

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{{refresh_tag}}
<title>DVC plots</title>
<!-- Vega, Vega-Lite, Vega-Embed: University of Washington Interactive Data Lab, BSD-3 -->
<script>{vega}</script>
<style>
body {{ margin: 1.5rem; font-family: system-ui, sans-serif; }}
table {{ border-spacing: 15px; }}
img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def page() -> str:
    """The template, with DVC's placeholders in braces."""
    return PAGE.format(vega=vl_convert.javascript_bundle(vl_version=VEGA_LITE))


if __name__ == "__main__":
    Path(__file__).with_name("page.html").write_text(page())
