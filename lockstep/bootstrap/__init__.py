"""Bootstrap: a base image and a conda channel made from the Debian archive, where nothing else is at hand.

Both are functions of the Bootstrap record in the lock: which .debs, by sha256. So another machine makes
the same bytes from the same lock.
"""

from lockstep.bootstrap.base import BootstrapBase, bootstrap_base
from lockstep.bootstrap.channel import BootstrapChannel, bootstrap_channel, combine

__all__ = ["BootstrapBase", "BootstrapChannel", "bootstrap_base", "bootstrap_channel", "combine"]
