"""python -m analysis.zero_shot: see scoring.py."""

import sys

from analysis.zero_shot.scoring import main

sys.exit(main())
