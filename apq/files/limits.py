"""How large what is read may be: counted before anything is built from it.

Far above what apq writes, far below what fills a machine.
"""

MOST_BYTES = 64 * 2**20
"""Of a JSON or TOML text, also of one in the header of a binary file."""
MOST_DEPTH = 32
"""Brackets within brackets in such a text."""
MOST_DIGITS = 40
"""Of a whole number in such a text."""
MOST_CELLS = 10**9
"""Rows times columns of a Parquet file."""
MOST_ROWS = 10**7
"""Rows of a table."""

MOST_STAGES = 64
"""Of a space."""
MOST_DEPTHS = 64
"""Blocks of a stage."""
MOST_CHANNELS = 65_536
"""Of a layer; also the most classes, and pixels of a side."""
MOST_WIDTHS = 4_096
"""Choices of one gene."""
MOST_RULES = 1_024
"""Exclusions of a space."""
MOST_EXCLUDED = 10**7
"""Exclusions times the combinations of choices they are about, over all slots."""
MOST_ITEMS = 2**20
"""Entries of any other list or table: points of a curve, class names, candidates asked for."""
MOST_TEXT = 2**16
"""Characters of a name, a hash or another text in a schema."""

MOST_MODEL_BYTES = 2**31
"""Of a network's file; protobuf has no larger ones."""
MOST_OPERATIONS = 20_000
"""Of a network from a file."""
MOST_NUMBERS = 2**28
"""Numbers in what one operation of a network from a file gives."""
