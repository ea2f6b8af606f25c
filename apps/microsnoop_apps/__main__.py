"""``python -m microsnoop_apps``: the command line where no script was installed."""

from microsnoop_apps.cli import main

main()
