//! Bars as SVG: each case on a scale of its own, so that small ones are seen beside large ones

use std::fmt::Write;

use crate::report::shown;
use crate::site::Kind;

/// A case that is drawn
#[derive(Clone, Debug)]
pub struct Panel {
    /// The case
    pub what: String,
    /// What the numbers are
    pub measure: &'static str,
    /// Whether longer bars are better
    pub higher_is_better: bool,
    /// A bar for each
    pub bars: Vec<(Kind, f64)>,
}

const WIDTH: u32 = 860;
const LABEL: u32 = 130;
const LONGEST: f64 = 560.0;
const BAR: u32 = 16;
const PITCH: u32 = 20;
const HEAD: u32 = 26;
const GAP: u32 = 14;

/// The panels one below the other; readable on light and on dark pages
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let height = panels.iter().fold(40, |height, panel| {
        height + HEAD + PITCH * panel.bars.len() as u32 + GAP
    });
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n\
         <style>\n  text {{ fill: #24292f }} .quiet {{ fill: #57606a }}\n  \
         .registry {{ fill: #1f6feb }} .docker-registry {{ fill: #8c959f }} .nginx {{ fill: #2da44e }}\n  \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .quiet {{ fill: #9198a1 }} }}\n\
         </style>\n\
         <text x=\"0\" y=\"20\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n",
        title = escaped(title)
    );
    let mut y = 40;
    for panel in panels {
        let direction = match panel.higher_is_better {
            true => "longer is better",
            false => "shorter is better",
        };
        let _ = writeln!(
            text,
            "<text x=\"0\" y=\"{}\"><tspan font-weight=\"bold\">{}</tspan> \
             <tspan class=\"quiet\">{}, {direction}</tspan></text>",
            y + 16,
            escaped(&panel.what),
            escaped(panel.measure)
        );
        y += HEAD;
        let most = panel
            .bars
            .iter()
            .map(|(_, number)| *number)
            .fold(0.0, f64::max);
        for (kind, number) in &panel.bars {
            // A bar of nothing would not be seen to be there.
            let length = (number / most * LONGEST).max(1.0);
            let middle = y + BAR - 4;
            let _ = writeln!(
                text,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{kind}</text>\
                 <rect class=\"{kind}\" x=\"{LABEL}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{middle}\">{}</text>",
                LABEL - 8,
                f64::from(LABEL) + length + 6.0,
                shown(*number)
            );
            y += PITCH;
        }
        y += GAP;
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_has_the_whole_length_and_others_their_share() {
        let panel = Panel {
            what: "a < b".to_owned(),
            measure: "GB a second",
            higher_is_better: true,
            bars: vec![(Kind::Ours, 4.0), (Kind::Distribution, 1.0)],
        };
        let text = svg("What", &[panel]);
        assert!(
            text.contains("width=\"560.0\"") && text.contains("width=\"140.0\""),
            "{text}"
        );
        assert!(
            text.contains("a &lt; b") && text.contains("longer is better"),
            "{text}"
        );
        assert!(text.ends_with("</svg>\n"));
    }
}
