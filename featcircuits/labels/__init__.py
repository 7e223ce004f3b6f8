"""What people and programs call features: a file of labels, and the forms that other programs keep them in.

labels = fc.labels.read("labels.jsonl")
circuit = circuit.labelled(fc.labels.texts(labels))
"""

from __future__ import annotations

from featcircuits.labels.file import read, write
from featcircuits.labels.forms import FORMS, export_labels, import_labels
from featcircuits.labels.labeller import command, default_labels, made
from featcircuits.labels.record import Label, texts

__all__ = [
    "FORMS", "Label", "command", "default_labels", "export_labels", "import_labels", "made", "read", "texts", "write",
]  # fmt: skip
