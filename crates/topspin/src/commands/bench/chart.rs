//! Line charts as SVG, readable on light and dark pages.
//!
//! Written by hand: what a plotting library draws has its colours fixed, and the reader's page decides here.

use std::fmt::{self, Write};

/// A figure of charts below each other.
pub struct Figure {
    /// What is shown.
    pub title: String,
    /// Under which conditions, a line each.
    pub subtitles: [String; 2],
    /// The charts.
    pub charts: Vec<Chart>,
}

/// One chart. Its horizontal axis has a tick at each value of the first line, the vertical one begins at 0.
pub struct Chart {
    /// Quantity and unit of the horizontal axis.
    pub x_label: String,
    /// Quantity and unit of the vertical axis.
    pub y_label: String,
    /// Whether equal distances are equal factors on the horizontal axis.
    pub by_factors: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Points that belong together. The first line of a chart has its values written beside the points.
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Horizontal and vertical values, by the horizontal one.
    pub points: Vec<[f64; 2]>,
}

const WIDTH: f64 = 640.0;
const HEAD: f64 = 84.0;
const CHART: f64 = 320.0;
/// The plotting area within a chart.
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 30.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = CHART - 54.0;

/// Classes only: not every viewer knows variables, and all take the light colours where they know no schemes.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.faint{fill:#59636e}
.paper{fill:#fff}.grid{stroke:#d1d9e0}.axis{stroke:#59636e}.middle{text-anchor:middle}.end{text-anchor:end}
.line0{fill:none;stroke:#0969da;stroke-width:2}.line1{fill:none;stroke:#bc4c00;stroke-width:1.5;stroke-dasharray:5 4}
.dot0{fill:#0969da}.dot1{fill:#bc4c00}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.faint{fill:#9198a1}.paper{fill:#0d1117}.grid{stroke:#3d444d}
.axis{stroke:#9198a1}.line0{stroke:#4493f8}.line1{stroke:#db6d28}.dot0{fill:#4493f8}.dot1{fill:#db6d28}}";

impl Figure {
    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        self.write(&mut svg).expect("a string takes everything");
        svg
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        let (title, [what, where_]) = (escaped(&self.title), self.subtitles.each_ref().map(|line| escaped(line)));
        let height = HEAD + CHART * self.charts.len() as f64;
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\">"
        )?;
        writeln!(svg, "<title>{title}</title>\n<desc>{what}; {where_}</desc>\n<style>{STYLE}</style>")?;
        writeln!(svg, "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>")?;
        writeln!(svg, "<text class=\"title\" x=\"20\" y=\"28\">{title}</text>")?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"48\">{what}</text>")?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"65\">{where_}</text>")?;
        for (number, chart) in self.charts.iter().enumerate() {
            writeln!(svg, "<g transform=\"translate(0 {})\">", HEAD + CHART * number as f64)?;
            chart.write(svg)?;
            writeln!(svg, "</g>")?;
        }
        writeln!(svg, "</svg>")
    }
}

impl Chart {
    fn write(&self, svg: &mut String) -> fmt::Result {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let step = tick_step(all().map(|point| point[1]).fold(0.0, f64::max));
        let top = all().map(|point| (point[1] / step).ceil()).fold(1.0, f64::max) * step;
        let scaled = |x: f64| if self.by_factors { x.log2() } else { x };
        let last = all().map(|point| scaled(point[0])).fold(f64::MIN, f64::max);
        let first = if self.by_factors { all().map(|point| scaled(point[0])).fold(last, f64::min) } else { 0.0 };
        let (start, end) = (if self.by_factors { LEFT + 24.0 } else { LEFT }, RIGHT - 24.0);
        let x_of = |x: f64| start + (scaled(x) - first) / (last - first).max(f64::MIN_POSITIVE) * (end - start);
        let y_of = |y: f64| BOTTOM - y / top * (BOTTOM - TOP);

        for tick in 0..=(top / step).round() as usize {
            let (value, y) = (tick as f64 * step, y_of(tick as f64 * step));
            writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>")?;
            writeln!(svg, "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>", LEFT - 8.0, y + 4.0, number(value))?;
        }
        writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/>")?;
        for &[value, _] in self.lines.first().map_or(&[][..], |line| &line.points) {
            let x = x_of(value);
            writeln!(svg, "<path class=\"axis\" d=\"M{x:.1} {BOTTOM}v5\"/>")?;
            writeln!(svg, "<text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>", BOTTOM + 19.0, number(value))?;
        }
        let middle = (LEFT + RIGHT) / 2.0;
        writeln!(
            svg,
            "<text class=\"middle\" x=\"{middle}\" y=\"{}\">{}</text>",
            BOTTOM + 40.0,
            escaped(&self.x_label)
        )?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"14\">{}</text>", escaped(&self.y_label))?;

        let mut legend = RIGHT;
        for (at, line) in self.lines.iter().enumerate().rev() {
            let points: Vec<_> = line.points.iter().map(|&[x, y]| format!("{:.1},{:.1}", x_of(x), y_of(y))).collect();
            writeln!(svg, "<polyline class=\"line{at}\" points=\"{}\"/>", points.join(" "))?;
            for &[x, y] in &line.points {
                let (cx, cy) = (x_of(x), y_of(y));
                writeln!(svg, "<circle class=\"dot{at}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"/>")?;
                if at == 0 {
                    let y_text = cy - 9.0;
                    writeln!(svg, "<text class=\"middle\" x=\"{cx:.1}\" y=\"{y_text:.1}\">{}</text>", number(y))?;
                }
            }
            if self.lines.len() > 1 {
                // About the width of the text, which no writer of SVG can know.
                let start = legend - 6.6 * line.name.len() as f64;
                writeln!(svg, "<path class=\"line{at}\" d=\"M{:.1} 10h24\"/>", start - 32.0)?;
                writeln!(svg, "<text x=\"{start:.1}\" y=\"14\">{}</text>", escaped(&line.name))?;
                legend = start - 54.0;
            }
        }
        Ok(())
    }
}

/// The distance of ticks, 1, 2 or 5 times a power of ten, of which four to nine reach `top`.
fn tick_step(top: f64) -> f64 {
    let rough = top.max(f64::MIN_POSITIVE) / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [5.0, 2.0].into_iter().find(|factor| factor * power <= rough).unwrap_or(1.0);
    factor * power
}

/// A number in three significant digits, whole ones in full.
fn number(x: f64) -> String {
    let decimals = match x.abs() {
        x if x == 0.0 || x >= 100.0 => 0,
        x => (2.0 - x.log10().floor()).clamp(0.0, 9.0) as usize,
    };
    let text = format!("{x:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for top in [0.0013, 0.9, 1.0, 3.3, 47.0, 1234.0] {
            let step = tick_step(top);
            assert!((4.0..=10.0).contains(&(top / step)), "{top} in steps of {step}");
            let mantissa = step / 10_f64.powf(step.log10().floor());
            assert!([1.0, 2.0, 5.0, 10.0].iter().any(|m| (mantissa - m).abs() < 1e-9), "{step}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.05, 0.012345, 1.5, 1.0 / 3.0, 42.0, 99.94, 1536.0, 12345.6];
        assert_eq!(numbers.map(number), ["0", "0.05", "0.0123", "1.5", "0.333", "42", "99.9", "1536", "12346"]);
    }

    #[test]
    fn a_point_stands_where_its_values_say() {
        let line = |points: &[[f64; 2]]| Line { name: "a < b".into(), points: points.to_vec() };
        let chart = |by_factors, points: &[[f64; 2]]| Chart {
            x_label: "x".into(),
            y_label: "y".into(),
            by_factors,
            lines: vec![line(points)],
        };
        let charts = vec![
            chart(false, &[[50.0, 2.0], [100.0, 4.0]]),
            chart(true, &[[1.0, 1.0], [4.0, 4.0], [16.0, 2.0]]),
            // One point alone is no reason to divide by zero.
            chart(true, &[[8.0, 3.0]]),
        ];
        let svg = Figure { title: "R&D".into(), subtitles: ["<>".into(), "".into()], charts }.svg();
        assert!(svg.contains("<title>R&amp;D</title>") && svg.contains("&lt;&gt;") && !svg.contains("NaN"), "{svg}");
        let (right, middle) = (RIGHT - 24.0, (TOP + BOTTOM) / 2.0);
        let half = (LEFT + right) / 2.0;
        assert!(svg.contains(&format!("points=\"{half:.1},{middle:.1} {right:.1},{TOP:.1}\"")), "{svg}");
        let half = (LEFT + 24.0 + right) / 2.0;
        assert!(svg.contains(&format!(" {half:.1},{TOP:.1} {right:.1},{middle:.1}\"")), "{svg}");
    }
}
