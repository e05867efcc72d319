"""Coalition: a job manager for render farms and batch work that cannot overspend."""

__version__ = "5.0.0.dev0"
