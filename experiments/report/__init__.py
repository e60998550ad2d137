"""Records into results/. looks: how systems look in figures. captions: what stands above a page's numbers.

errata: where v1 contradicts itself. render: pages and the ledger. index: what is in results/. embedded_markdown:
Markdown as HTML that needs nothing else. html_report: results/report.html. command: `render`.
"""

READING_ORDER = (
    "looks",
    "captions",
    "errata",
    "render",
    "index",
    "embedded_markdown",
    "html_report",
    "command",
)
