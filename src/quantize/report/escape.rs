//! Text of a file in a page: escaped, and no longer than there is room.

use crate::text::Shown;
use std::fmt::{self, Display, Write};

/// Text as it may stand in a page, in an attribute too. Control characters are shown as what they are.
pub(super) struct Text<'a>(pub &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in Shown(self.0).to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A name of so many characters at most: the middle of a longer one goes.
pub(super) fn short(name: &str, chars: usize) -> String {
    let shown = Shown(name).to_string();
    let count = shown.chars().count();
    if count <= chars {
        return shown;
    }
    let (head, tail) = (chars / 2, chars - chars / 2 - 1);
    let end: String = shown.chars().skip(count - tail).collect();
    shown.chars().take(head).chain(['…']).chain(end.chars()).collect()
}
