"""``python -m nmfbench``: the command ``nmfbench`` where it is not installed."""

from nmfbench.cli import main

raise SystemExit(main())
