//! How is a value written in the language of each line?

/// A word of a POSIX shell's command line.
pub(super) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A value in one of QEMU's comma-separated lists.
pub(super) fn qemu_value(value: &str) -> String {
    value.replace(',', ",,")
}

/// A value between single quotes in XML.
pub(super) fn xml(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A basic string in TOML, quotes included.
pub(super) fn toml(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in
            ["", "plain", "/srv/a,b=c", "a b", "it's", "$HOME", "`id`", "a\\b", "~", "*", "ä", "#", "!x"]
        {
            let line = format!("printf %s {}", shell(word));
            let output = std::process::Command::new("sh").arg("-c").arg(&line).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{line}");
        }
        assert_eq!(shell("/srv/share"), "/srv/share");
    }

    #[test]
    fn values_survive_their_languages() {
        assert_eq!(qemu_value("a,b,,c"), "a,,b,,,,c");
        assert_eq!(xml("<&'\">"), "&lt;&amp;&apos;&quot;&gt;");
        assert_eq!(toml(r#"a\b"c"#), r#""a\\b\"c""#);
    }
}
