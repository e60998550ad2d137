"""Table 1 (English).

Paper (v1, Table 1): Dense 16.23; X-MoE 14.82 and 11.96; MH-MoE 12.72 and 10.28.
Cost: smoke 3 minutes, cpu about two hours on two cores. Run: make reproduce-table1 SCALE=cpu
"""

from experiments.table1 import table1

PAGE = table1("english", slug="table1_perplexity", title="Table 1 (English): test perplexity")
