"""Hypothesis strategies for JSON and for attributes of events."""

from hypothesis import strategies as st

NONCHARACTERS = [chr(code) for code in [*range(0xFDD0, 0xFDF0), *range(0xFFFE, 0x110000, 0x10000)]]
NONCHARACTERS += [chr(code) for code in range(0xFFFF, 0x110000, 0x10000)]

# Characters that the CloudEvents type system allows: no control characters, no surrogates, no noncharacters.
characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NONCHARACTERS)
strings = st.text(characters, max_size=40)
names = st.text(characters, min_size=1, max_size=40)
sources = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0189-._~:/?#[]@!$&'()*+,;=%", min_size=1, max_size=40)
extension_names = st.from_regex(r"x[a-z0-9]{0,40}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
