"""`hytrec-export`: one module for each command group."""

from hytrec_export.cli.app import main as main
