"""Methods x seeds on one target and source, with the same budget for each."""

from ..utils.validation import ConfigError
from .config import CompareConfig, SearchConfig, SourceConfig, TargetConfig, load_config
from .dry_run import DryRun, dry_run
from .runner import ComparisonError, ComparisonResult, compare


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
