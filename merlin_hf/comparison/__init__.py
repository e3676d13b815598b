"""Methods x seeds on one target and source, with the same budget for each."""

from .config import CompareConfig, SearchConfig, SourceConfig, TargetConfig, load_config
from .driver import ComparisonError, ComparisonResult, compare
from .dry_run import DryRun, dry_run
from .values import ConfigError


__all__ = [
    "CompareConfig",
    "ComparisonError",
    "ComparisonResult",
    "ConfigError",
    "DryRun",
    "SearchConfig",
    "SourceConfig",
    "TargetConfig",
    "compare",
    "dry_run",
    "load_config",
]
