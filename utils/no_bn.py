"""The older name of utils.batch_norm, for methods written for Mammoth."""

from utils.batch_norm import bn_track_stats

__all__ = ["bn_track_stats"]
