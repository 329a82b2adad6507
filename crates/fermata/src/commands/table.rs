//! Tables for people.

use comfy_table::{Table, presets};

/// Columns under their titles, without lines.
pub(super) fn table<const COLUMNS: usize>(
    titles: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    for row in rows {
        table.add_row(row.map(|cell| visible(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Cells hold text from inside sandboxes, which must not command the terminal.
fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = letter.is_control().then(|| letter.escape_default());
            let plain = (!letter.is_control()).then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_titles() {
        let text = table(
            ["ID", "STATUS"],
            [["a-long-id".to_owned(), "running".to_owned()]],
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("STATUS"), lines[1].find("running"));
    }

    #[test]
    fn text_from_a_sandbox_cannot_command_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\nä"), "a\\u{1b}[2Jb\\nä");
    }
}
