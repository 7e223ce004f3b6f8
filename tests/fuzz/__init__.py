"""Damaged and hostile input of every kind that users bring, made at random from a seed.

Each case must end in a sound result or in one `InputError`, within bounds of time and memory.

    python -m tests.fuzz                       # 20,000 cases, all targets
    python -m tests.fuzz --target task --cases 500 --seed 7
"""
