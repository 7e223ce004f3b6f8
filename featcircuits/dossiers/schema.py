"""The columns of the three Parquet tables; docs/dossiers.md says what each means."""

from __future__ import annotations

import pyarrow as pa

from featcircuits.dossiers.records import quantile_columns

_RELATED = {name: pa.struct([("site", pa.string()), ("feature", pa.int32()), (name, pa.float32())])
            for name in ("cosine", "phi")}  # fmt: skip
_EFFECT = pa.struct([("id", pa.int32()), ("token", pa.string()), ("logit", pa.float32())])
_SHARE = pa.struct([("id", pa.int32()), ("token", pa.string()), ("share", pa.float32()), ("text_share", pa.float32())])
_KEY = [("site", pa.dictionary(pa.int32(), pa.string())), ("feature", pa.int32())]

FEATURES = pa.schema([
    *_KEY,
    ("label", pa.string()),
    ("n_tokens", pa.int64()),
    ("n_active", pa.int64()),
    ("density", pa.float64()),
    ("mean", pa.float64()),
    ("max", pa.float64()),
    ("negative", pa.float64()),
    *((name, pa.float64()) for name in quantile_columns().values()),
    ("histogram_start", pa.int32()),
    ("histogram", pa.list_(pa.int64())),
    ("top_tokens", pa.list_(_SHARE)),
    ("promoted", pa.list_(_EFFECT)),
    ("suppressed", pa.list_(_EFFECT)),
    ("neighbours", pa.list_(_RELATED["cosine"])),
    ("next_layer", pa.list_(_RELATED["cosine"])),
    ("coactive", pa.list_(_RELATED["phi"])),
])  # fmt: skip
"""A row for each feature."""

CONTEXTS = pa.schema([
    *_KEY,
    ("kind", pa.dictionary(pa.int32(), pa.string())),
    ("activation", pa.float32()),
    ("share_below", pa.float32()),
    ("document", pa.int64()),
    ("position", pa.int32()),
    ("at", pa.int32()),
    ("tokens", pa.list_(pa.string())),
    ("ids", pa.list_(pa.int32())),
    ("activations", pa.list_(pa.float32())),
])  # fmt: skip
"""A row for each context, "top" or "sample", the strongest of each kind of a feature first."""

TASK = pa.schema([
    *_KEY,
    ("place", pa.string()),
    ("clean", pa.float64()),
    ("corrupted", pa.float64()),
    ("change", pa.float64()),
    ("effect", pa.float64()),
    ("standard_error", pa.float64()),
])  # fmt: skip
"""A row for each feature and place of a task."""
