"""python -m ofer_models.cli: the `ofer` command."""

from ofer_models.cli.main import main

if __name__ == "__main__":
    main()
