"""The spliced model: forward passes of the unmodified model with its sites read and edited."""
