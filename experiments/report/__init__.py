"""Records into results/. looks: how systems look in figures. captions: what stands above a page's numbers.

errata: where v1 contradicts itself. render: pages and the ledger. index: what is in results/. command: `render`..
"""

READING_ORDER = (
    "looks",
    "captions",
    "errata",
    "render",
    "index",
    "command",
)
