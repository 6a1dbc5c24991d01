//! A template's text cut into tokens, with whitespace removed where tags ask for it.
//!
//! The rules are Jinja's with `trim_blocks` and `lstrip_blocks`: a line break right behind a block or a comment goes, and so
//! do blanks between the start of a line and a block or comment; `-` removes all whitespace on its side, `+` keeps it.
//! Expressions are cut as Python's are.

use super::value::{Fault, Res, is_space};
use std::rc::Rc;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(Rc<str>),
    /// `{{`
    VariableBegin,
    /// `}}`
    VariableEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    /// An identifier or a keyword.
    Name(Rc<str>),
    /// A text literal, its escapes resolved.
    Text(Rc<str>),
    /// An integer literal.
    Integer(i128),
    /// A number literal with a fraction or an exponent.
    Float(f64),
    /// Punctuation.
    Operator(&'static str),
    /// Behind the last token.
    End,
}

/// A token and the line that it begins in, counted from one.
pub(super) type Placed = (Token, u32);

/// Operators, longer ones before those that they begin with.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// What an opening tag is.
#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Variable,
    Block,
    Comment,
    Raw,
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Whether what was read last ended a line.
    line_starting: bool,
    tokens: Vec<Placed>,
}

/// Cuts a template.
pub(super) fn cut(source: &str) -> Res<Vec<Placed>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    lexer.root()?;
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn fail<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(Fault::syntax(message).at(self.line))
    }

    /// Moves on, counting lines.
    fn skip(&mut self, bytes: usize) {
        let end = (self.at + bytes).min(self.source.len());
        let passed = &self.source[self.at..end];
        if let Some(last) = passed.bytes().last() {
            self.line_starting = last == b'\n';
        }
        let breaks = passed.bytes().filter(|&b| b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
        self.at = end;
    }

    fn skip_space(&mut self) {
        let length = self.rest().len() - self.rest().trim_start_matches(is_space).len();
        self.skip(length);
    }

    fn root(&mut self) -> Res<()> {
        while self.at < self.source.len() {
            let Some((start, tag)) = self.next_tag() else {
                let text: Rc<str> = self.rest().into();
                let length = text.len();
                self.push(Token::Data(text));
                self.skip(length);
                return Ok(());
            };
            let sign = self.source.as_bytes().get(start + 2).copied().filter(|b| matches!(b, b'-' | b'+'));
            self.data(start, sign, tag != Tag::Variable);
            self.skip(start + 2 + usize::from(sign.is_some()) - self.at);
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Raw => self.raw()?,
                Tag::Variable => {
                    self.push(Token::VariableBegin);
                    self.expression(false)?;
                }
                Tag::Block => {
                    self.push(Token::BlockBegin);
                    self.expression(true)?;
                }
            }
        }
        Ok(())
    }

    /// Where the next tag begins, and which it is.
    fn next_tag(&self) -> Option<(usize, Tag)> {
        let bytes = self.source.as_bytes();
        let mut from = self.at;
        loop {
            let start = from + self.source.get(from..)?.find('{')?;
            let tag = match bytes.get(start + 1) {
                Some(b'{') => Tag::Variable,
                Some(b'#') => Tag::Comment,
                Some(b'%') if self.raw_begins(start) => Tag::Raw,
                Some(b'%') => Tag::Block,
                _ => {
                    from = start + 1;
                    continue;
                }
            };
            return Some((start, tag));
        }
    }

    /// Whether `{% raw %}` stands at `start`.
    fn raw_begins(&self, start: usize) -> bool {
        let tag = &self.source[start + 2..];
        let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start_matches(is_space);
        let Some(tag) = tag.strip_prefix("raw") else { return false };
        let tag = tag.trim_start_matches(is_space);
        tag.starts_with("%}") || tag.starts_with("-%}")
    }

    /// Text up to `end`, less what the tag there takes from it.
    fn data(&mut self, end: usize, sign: Option<u8>, strips_line: bool) {
        let text = &self.source[self.at..end];
        let kept = match sign {
            Some(b'-') => text.trim_end_matches(is_space),
            Some(_) => text,
            None => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let at_start = line > 0 || self.line_starting;
                let blank = line < text.len() && text[line..].chars().all(is_space);
                if strips_line && at_start && blank { &text[..line] } else { text }
            }
        };
        if !kept.is_empty() {
            let kept: Rc<str> = kept.into();
            self.push(Token::Data(kept));
        }
        self.skip(end - self.at);
    }

    /// The end of a block or comment at `at`, and its length with the whitespace that it takes.
    fn block_end(&self, at: usize, close: &str) -> Option<usize> {
        let rest = &self.source[at..];
        if let Some(behind) = rest.strip_prefix('+').and_then(|r| r.strip_prefix(close)) {
            return Some(rest.len() - behind.len());
        }
        if let Some(behind) = rest.strip_prefix('-').and_then(|r| r.strip_prefix(close)) {
            return Some(rest.len() - behind.trim_start_matches(is_space).len());
        }
        let behind = rest.strip_prefix(close)?;
        Some(rest.len() - behind.strip_prefix('\n').unwrap_or(behind).len())
    }

    fn comment(&mut self) -> Res<()> {
        let Some(found) = self.rest().find("#}") else { return self.fail("a comment has no end") };
        let end = self.at + found;
        let signed = found > 0 && matches!(self.source.as_bytes()[end - 1], b'+' | b'-');
        let close = if signed { end - 1 } else { end };
        let length = self.block_end(close, "#}").unwrap_or(2);
        self.skip(close + length - self.at);
        Ok(())
    }

    fn raw(&mut self) -> Res<()> {
        // `raw` and its end; the whitespace behind goes only where `-` says so.
        self.skip_space();
        self.skip("raw".len());
        self.skip_space();
        if self.rest().starts_with('-') {
            self.skip("-%}".len());
            self.skip_space();
        } else {
            self.skip("%}".len());
        }
        let mut from = self.at;
        while let Some(found) = self.source[from..].find("{%") {
            let start = from + found;
            let tag = &self.source[start + 2..];
            let sign = tag.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
            let inner = tag[usize::from(sign.is_some())..].trim_start_matches(is_space);
            if let Some(inner) = inner.strip_prefix("endraw") {
                let close = self.source.len() - inner.trim_start_matches(is_space).len();
                if let Some(length) = self.block_end(close, "%}") {
                    self.data(start, sign, true);
                    self.skip(close + length - self.at);
                    return Ok(());
                }
            }
            from = start + 2;
        }
        self.fail("`raw` has no `endraw`")
    }

    /// Tokens of a block or a variable, to its end.
    fn expression(&mut self, is_block: bool) -> Res<()> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            if open.is_empty() {
                if is_block && let Some(length) = self.block_end(self.at, "%}") {
                    self.push(Token::BlockEnd);
                    self.skip(length);
                    return Ok(());
                }
                if !is_block {
                    if self.rest().starts_with("-}}") {
                        self.push(Token::VariableEnd);
                        self.skip(3);
                        self.skip_space();
                        return Ok(());
                    }
                    if self.rest().starts_with("}}") {
                        self.push(Token::VariableEnd);
                        self.skip(2);
                        return Ok(());
                    }
                }
            }
            let Some(c) = self.rest().chars().next() else {
                return self.fail(format!("a `{}` has no end", if is_block { "{%" } else { "{{" }));
            };
            if is_space(c) {
                self.skip_space();
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphabetic() {
                let length = self.rest().find(|c: char| c != '_' && !c.is_alphanumeric());
                let length = length.unwrap_or(self.rest().len());
                let name: Rc<str> = self.rest()[..length].into();
                self.push(Token::Name(name));
                self.skip(length);
            } else if c == '\'' || c == '"' {
                self.text(c)?;
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Res<()> {
        let Some(operator) = OPERATORS.iter().find(|o| self.rest().starts_with(**o)) else {
            let c = self.rest().chars().next().unwrap_or(' ');
            return self.fail(format!("unexpected `{}`", c.escape_debug()));
        };
        match *operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(*operator) => {
                return self.fail(format!("unexpected `{operator}`"));
            }
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.skip(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Res<()> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        if bytes[0] == b'0' && bytes.get(1).is_some_and(|b| b"xXoObB".contains(b)) {
            let radix = match bytes[1].to_ascii_lowercase() {
                b'x' => 16,
                b'o' => 8,
                _ => 2,
            };
            let length = rest[2..].find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
            let length = 2 + length.unwrap_or(rest.len() - 2);
            let digits = rest[2..length].replace('_', "");
            let Ok(value) = i128::from_str_radix(&digits, radix) else {
                return self.fail(format!("`{}` is no number", &rest[..length]));
            };
            self.push(Token::Integer(value));
            self.skip(length);
            return Ok(());
        }
        // A number behind a dot is an index (`a.0.1`), never the start of a fraction.
        let after_dot = self.at > 0 && self.source.as_bytes()[self.at - 1] == b'.';
        let digits = |from: usize| {
            let run = bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
            from + run
        };
        let mut end = digits(0);
        let mut is_float = false;
        if !after_dot {
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1);
                is_float = true;
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if bytes.get(end + 1 + signed).is_some_and(u8::is_ascii_digit) {
                    end = digits(end + 1 + signed);
                    is_float = true;
                }
            }
        }
        let text = rest[..end].replace('_', "");
        let follows = bytes.get(end).is_some_and(|b| b.is_ascii_alphabetic());
        let zeros = !is_float && text.len() > 1 && text.starts_with('0') && text.bytes().any(|b| b != b'0');
        if rest[..end].ends_with('_') || rest[..end].contains("__") || follows || zeros {
            return self.fail(format!("`{}` is no number", &rest[..end]));
        }
        let token = match is_float {
            true => text.parse().ok().map(Token::Float),
            false => text.parse().ok().map(Token::Integer),
        };
        let Some(token) = token else {
            return Err(Fault::refused(format!("the number {text}")).at(self.line));
        };
        self.push(token);
        self.skip(end);
        Ok(())
    }

    fn text(&mut self, quote: char) -> Res<()> {
        let rest = self.rest();
        let mut escaped = false;
        let mut end = None;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let Some(end) = end else { return self.fail("a text has no end") };
        let value = unescape(&rest[1..end]).map_err(|f| f.at(self.line))?;
        self.push(Token::Text(value.into()));
        self.skip(end + 1);
        Ok(())
    }
}

/// Python's escapes in a text literal.
fn unescape(text: &str) -> Res<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(kind) = chars.next() else { return Err(Fault::syntax("a text ends in a backslash")) };
        match kind {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            'a' => out.push('\u{7}'),
            '\\' | '\'' | '"' => out.push(kind),
            // A line that goes on.
            '\n' => {}
            '0'..='7' => {
                let mut value = kind.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.extend(char::from_u32(value));
            }
            'x' | 'u' | 'U' => {
                let digits = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let text: String = chars.by_ref().take(digits).collect();
                let value = (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok()).flatten();
                match value.and_then(char::from_u32) {
                    Some(c) => out.push(c),
                    None => return Err(Fault::refused(format!("the escape `\\{kind}{text}`"))),
                }
            }
            'N' => return Err(Fault::refused("an escape by a character's name, `\\N{…}`")),
            other if !other.is_ascii() => return Err(Fault::refused(format!("the escape `\\{other}`"))),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Ok(out)
}
