//! YAML as a tree that remembers lines. Scalars stay text: `1.5e-07` is a price here, and never a
//! float. Depth and size are bounded, aliases included, so that no file can blow up.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::Fault;

/// The deepest nesting, and the most nodes after aliases have been followed.
const MOST_DEPTH: usize = 64;
const MOST_NODES: usize = 500_000;

/// A value and the line on which it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; no key twice.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The keys and values of a table; none if it is something else. What is null is not there.
    pub(super) fn entries(&self) -> &[(String, Node)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The items of a list; none if it is something else.
    pub(super) fn items(&self) -> &[Node] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// The text of a key.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::text)
    }

    /// The texts of a list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.items().iter().filter_map(Node::text)
    }
}

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    let mut root = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => break,
            (
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing,
                _,
            ) => {}
            (_, span) if root.is_some() => {
                return Err(Fault::at(
                    span.start.line(),
                    "a second document begins here: give one file each",
                ));
            }
            (event, span) => root = Some(reader.node(event, span, 0)?.0),
        }
    }
    root.ok_or_else(|| Fault::new("it is empty"))
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// What an anchor stands for, and how many nodes that is.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(fault(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The value that begins with an event, and how many nodes it is.
    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<(Node, usize), Fault> {
        let line = span.start.line();
        if depth > MOST_DEPTH {
            return Err(Fault::at(line, format!("nested more than {MOST_DEPTH} deep")));
        }
        let (value, anchor, count) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let Some((node, count)) = known else {
                    return Err(Fault::at(line, "an alias stands within its own anchor"));
                };
                self.spend(count, line)?;
                return Ok((node, count));
            }
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor, 1),
            Event::SequenceStart(anchor, _) => {
                let (items, count) = self.list(depth)?;
                (Value::List(items), anchor, count + 1)
            }
            Event::MappingStart(anchor, _) => {
                let (entries, count) = self.map(depth)?;
                (Value::Map(entries), anchor, count + 1)
            }
            _ => return Err(Fault::at(line, "a value is missing")),
        };
        self.spend(1, line)?;
        let node = Node { line, value };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), count));
        }
        Ok((node, count))
    }

    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, usize), Fault> {
        let (mut items, mut count) = (Vec::new(), 0);
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok((items, count)),
                (event, span) => {
                    let (node, nodes) = self.node(event, span, depth + 1)?;
                    count += nodes;
                    items.push(node);
                }
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<(Vec<(String, Node)>, usize), Fault> {
        let (mut entries, mut merged, mut count) = (Vec::new(), Vec::new(), 0);
        loop {
            let (key, line) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(text, ..), span) => (text.into_owned(), span.start.line()),
                (_, span) => return Err(Fault::at(span.start.line(), "a key must be a text")),
            };
            let (event, span) = self.next()?;
            let (node, nodes) = self.node(event, span, depth + 1)?;
            count += nodes;
            match (key.as_str(), node.value) {
                ("<<", value) => merged.push(Node { line, value }),
                // The key's own line says more than that of a block behind it.
                (_, value) => entries.push((key, Node { line, value })),
            }
        }
        for node in merged {
            let several = matches!(node.value, Value::List(_));
            let sources = if several { node.items() } else { std::slice::from_ref(&node) };
            for source in sources {
                // Later in the list: what stands in the table itself is found first.
                entries.splice(0..0, source.entries().iter().cloned());
            }
        }
        // Null takes away what a merge has brought, so it goes last.
        let mut entries = last_wins(entries);
        entries.retain(|(_, node)| !matches!(node.value, Value::Null));
        Ok((entries, count))
    }

    fn spend(&mut self, nodes: usize, line: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        match self.nodes > MOST_NODES {
            true => {
                Err(Fault::at(line, format!("more than {MOST_NODES} values, aliases followed")))
            }
            false => Ok(()),
        }
    }
}

/// Of a key that stands there twice, the later one counts.
fn last_wins(entries: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for (at, (key, _)) in entries.iter().enumerate() {
        last.insert(key.clone(), at);
    }
    let kept = |(at, (key, _)): &(usize, (String, Node))| last.get(key) == Some(at);
    entries.into_iter().enumerate().filter(kept).map(|(_, entry)| entry).collect()
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let is_null = style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&text);
    if is_null { Value::Null } else { Value::Text(text.to_owned()) }
}

fn fault(error: &ScanError) -> Fault {
    Fault::at(error.marker().line(), format!("it is no YAML: {}", error.info()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(text: &str) -> (usize, String) {
        let fault = parse(text).expect_err("no YAML");
        (fault.line, fault.message)
    }

    #[test]
    fn a_tree_knows_its_lines_and_keeps_numbers_as_text() {
        let root = parse("a:\n  - b: 1.5e-07\n    c: 'null'\n    d: null\ne: |\n  x\n  y\n")
            .expect("YAML");
        let item = &root.get("a").expect("a").items()[0];
        assert_eq!((item.line, item.text_of("b")), (2, Some("1.5e-07")));
        assert_eq!(item.get("c").map(|node| node.line), Some(3));
        assert_eq!(item.text_of("c"), Some("null"), "in quotes it is a text");
        assert!(item.get("d").is_none());
        assert_eq!(root.text_of("e"), Some("x\ny\n"));
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let text = "base: &b {rpm: 5, key: a}\nlist:\n  - <<: *b\n    key: z\n  - *b\n";
        let root = parse(text).expect("YAML");
        let items = root.get("list").expect("list").items();
        assert_eq!(items[0].text_of("rpm"), Some("5"));
        assert_eq!(items[0].text_of("key"), Some("z"), "the table's own key counts");
        assert_eq!(items[1].text_of("key"), Some("a"));
        assert_eq!(parse("a: 1\na: 2").expect("YAML").text_of("a"), Some("2"));
    }

    #[test]
    fn what_is_malformed_deep_or_endless_is_told_with_its_line() {
        assert_eq!(line_of("a: [1, 2\nb: 3\n").0, 2);
        assert!(line_of("a: 1\n  b: 2\n").1.starts_with("it is no YAML: "));
        assert!(line_of(&"- ".repeat(10_000)).1.contains("64 deep"));
        assert!(line_of(&"[".repeat(100_000)).1.len() < 200);
        assert!(line_of("a: 1\n---\nb: 2\n").1.contains("second document"));
        assert_eq!(line_of("").1, "it is empty");
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for at in 1..12 {
            let before = format!("*a{}, ", at - 1).repeat(10);
            bomb.push_str(&format!("a{at}: &a{at} [{before}]\n"));
        }
        assert!(line_of(&bomb).1.contains("aliases followed"));
        let _ = parse("\u{0}\u{1}\u{fffd}{{{:").expect_err("garbage");
    }
}
