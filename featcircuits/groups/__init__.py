"""Groups of nodes: chosen by hand or by conditions, proposed by clustering, saved beside a run."""

from featcircuits.groups.choosing import choose
from featcircuits.groups.file import read, write
from featcircuits.groups.proposing import Proposal, propose

__all__ = ["Proposal", "choose", "propose", "read", "write"]
