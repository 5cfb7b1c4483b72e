"""Largest sizes of what is read, checked before anything is built from it.

They are far above what apq writes and far below what exhausts a machine's memory.
"""

MOST_BYTES = 64 * 2**20
"""Size of a JSON or TOML text, including one in the header of a binary file."""
MOST_DEPTH = 32
"""Nesting depth of such a text."""
MOST_DIGITS = 40
"""Digits of an integer in such a text."""
MOST_CELLS = 10**9
"""Cells (rows times columns) of a Parquet file."""
MOST_ROWS = 10**7
"""Rows of a table."""

MOST_STAGES = 64
"""Stages of a space."""
MOST_DEPTHS = 64
"""Blocks of a stage."""
MOST_CHANNELS = 65_536
"""Channels of a layer; also the most classes, and pixels along a side of an image."""
MOST_WIDTHS = 4_096
"""Choices of one gene."""
MOST_RULES = 1_024
"""Exclusions of a space."""
MOST_EXCLUDED = 10**7
"""Exclusions times the combinations of choices they concern, over all slots."""
MOST_ITEMS = 2**20
"""Entries of any other list or table: points of a curve, class names, candidates asked for."""
MOST_TEXT = 2**16
"""Characters of a name, a hash or another text in a schema."""

MOST_MODEL_BYTES = 2**31
"""Size of a network's file; protobuf allows no larger ones."""
MOST_OPERATIONS = 20_000
"""Operations of a network from a file."""
MOST_NUMBERS = 2**28
"""Elements in the output of one operation of a network from a file."""
