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

/// One chart. Its horizontal axis has a tick at each value of the longest line.
pub struct Chart {
    /// Quantity and unit of the horizontal axis.
    pub x_label: String,
    /// Quantity and unit of the vertical axis.
    pub y_label: String,
    /// Whether equal distances are equal factors on the horizontal axis.
    pub by_factors: bool,
    /// The vertical axis.
    pub vertical: Vertical,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A vertical axis.
#[derive(Clone, Copy)]
pub enum Vertical {
    /// It begins at 0.
    FromZero,
    /// Equal distances are equal factors; what lies below the floor is drawn there.
    ByFactors {
        /// The least value that can be told.
        floor: f64,
    },
}

/// Points that belong together. Where there are at most two lines, the first has its values written beside the points.
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Horizontal and vertical values, by the horizontal one.
    pub points: Vec<[f64; 2]>,
}

const WIDTH: f64 = 640.0;
const HEAD: f64 = 84.0;
const CHART: f64 = 320.0;
/// The plotting area within a chart that has one row in its head.
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 30.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = CHART - 54.0;
/// Height of a further row of the legend.
const ROW: f64 = 18.0;

/// Classes only: not every viewer knows variables, and all take the light colours where they know no schemes.
const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.faint{fill:#59636e}
.paper{fill:#fff}.grid{stroke:#d1d9e0}.axis{stroke:#59636e}.middle{text-anchor:middle}.end{text-anchor:end}
.line0{fill:none;stroke:#0969da;stroke-width:2}.line1{fill:none;stroke:#bc4c00;stroke-width:1.5;stroke-dasharray:5 4}
.dot0{fill:#0969da}.dot1{fill:#bc4c00}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.faint{fill:#9198a1}.paper{fill:#0d1117}.grid{stroke:#3d444d}
.axis{stroke:#9198a1}.line0{stroke:#4493f8}.line1{stroke:#db6d28}.dot0{fill:#4493f8}.dot1{fill:#db6d28}}";

/// Strokes of the third line and those behind it, on light pages and on dark ones.
const FURTHER: [[&str; 2]; 6] = [
    ["#1a7f37", "#3fb950"],
    ["#8250df", "#a371f7"],
    ["#cf222e", "#f85149"],
    ["#9a6700", "#d29922"],
    ["#59636e", "#9198a1"],
    ["#bf3989", "#db61a2"],
];

/// What `STYLE` lacks for charts of so many lines.
fn further_style(lines: usize) -> String {
    let classes = |dark: bool| -> String {
        let class = |line: usize| {
            let colour = FURTHER[(line - 2) % FURTHER.len()][usize::from(dark)];
            let dashes = if line % 2 == 1 { ";stroke-dasharray:5 4" } else { "" };
            format!(".line{line}{{fill:none;stroke:{colour};stroke-width:1.5{dashes}}}.dot{line}{{fill:{colour}}}")
        };
        (2..lines).map(class).collect()
    };
    match lines {
        0..=2 => String::new(),
        _ => format!("\n{}\n@media(prefers-color-scheme:dark){{{}}}", classes(false), classes(true)),
    }
}

impl Figure {
    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        self.write(&mut svg).expect("a string takes everything");
        svg
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        let (title, [what, where_]) = (escaped(&self.title), self.subtitles.each_ref().map(|line| escaped(line)));
        let height = HEAD + self.charts.iter().map(Chart::height).sum::<f64>();
        let style = further_style(self.charts.iter().map(|chart| chart.lines.len()).max().unwrap_or(0));
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\">"
        )?;
        writeln!(svg, "<title>{title}</title>\n<desc>{what}; {where_}</desc>\n<style>{STYLE}{style}</style>")?;
        writeln!(svg, "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>")?;
        writeln!(svg, "<text class=\"title\" x=\"20\" y=\"28\">{title}</text>")?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"48\">{what}</text>")?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"65\">{where_}</text>")?;
        let mut top = HEAD;
        for chart in &self.charts {
            writeln!(svg, "<g transform=\"translate(0 {top})\">")?;
            chart.write(svg)?;
            writeln!(svg, "</g>")?;
            top += chart.height();
        }
        writeln!(svg, "</svg>")
    }
}

impl Chart {
    /// The lines' numbers, row by row of the legend; the first row stands beside the label of the vertical axis.
    fn legend(&self) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new()];
        if self.lines.len() < 2 {
            return rows;
        }
        let mut left = RIGHT - 20.0 - text_width(&self.y_label);
        for (at, line) in self.lines.iter().enumerate() {
            left -= entry_width(line);
            if left < 0.0 {
                left = RIGHT - 20.0 - entry_width(line);
                rows.push(Vec::new());
            }
            rows.last_mut().expect("there is a first row").push(at);
        }
        rows
    }

    /// How much lower everything is than with one row in the head.
    fn shift(&self) -> f64 {
        ROW * (self.legend().len() - 1) as f64
    }

    fn height(&self) -> f64 {
        CHART + self.shift()
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        let (top, bottom) = (TOP + self.shift(), BOTTOM + self.shift());
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let scale = Scale::new(self.vertical, all().map(|point| point[1]));
        let scaled = |x: f64| if self.by_factors { x.log2() } else { x };
        let last = all().map(|point| scaled(point[0])).fold(f64::MIN, f64::max);
        let first = if self.by_factors { all().map(|point| scaled(point[0])).fold(last, f64::min) } else { 0.0 };
        let (start, end) = (if self.by_factors { LEFT + 24.0 } else { LEFT }, RIGHT - 24.0);
        let x_of = |x: f64| start + (scaled(x) - first) / (last - first).max(f64::MIN_POSITIVE) * (end - start);
        let y_of = |y: f64| bottom - scale.share(y) * (bottom - top);

        for (value, text) in &scale.ticks {
            let y = y_of(*value);
            writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>")?;
            writeln!(svg, "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{text}</text>", LEFT - 8.0, y + 4.0)?;
        }
        writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{RIGHT}\"/>")?;
        // Of equally long ones it is the first.
        let longest = self.lines.iter().rev().max_by_key(|line| line.points.len());
        for &[value, _] in longest.map_or(&[][..], |line| &line.points) {
            let x = x_of(value);
            writeln!(svg, "<path class=\"axis\" d=\"M{x:.1} {bottom}v5\"/>")?;
            writeln!(svg, "<text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>", bottom + 19.0, number(value))?;
        }
        let middle = (LEFT + RIGHT) / 2.0;
        writeln!(
            svg,
            "<text class=\"middle\" x=\"{middle}\" y=\"{}\">{}</text>",
            bottom + 40.0,
            escaped(&self.x_label)
        )?;
        writeln!(svg, "<text class=\"faint\" x=\"20\" y=\"14\">{}</text>", escaped(&self.y_label))?;

        let legend = self.legend();
        for (row, entries) in legend.iter().enumerate().rev() {
            let (mut right, y) = (RIGHT, 14.0 + ROW * row as f64);
            for (at, line) in self.lines.iter().enumerate().rev().filter(|(at, _)| entries.contains(at)) {
                // About the width of the text, which no writer of SVG can know.
                let start = right - text_width(&line.name);
                right -= entry_width(line);
                self.write_line(svg, at, x_of, y_of)?;
                writeln!(svg, "<path class=\"line{at}\" d=\"M{:.1} {}h24\"/>", start - 32.0, y - 4.0)?;
                writeln!(svg, "<text x=\"{start:.1}\" y=\"{y}\">{}</text>", escaped(&line.name))?;
            }
        }
        if let [_] = self.lines[..] {
            self.write_line(svg, 0, x_of, y_of)?;
        }
        Ok(())
    }

    fn write_line(
        &self,
        svg: &mut String,
        at: usize,
        x_of: impl Fn(f64) -> f64,
        y_of: impl Fn(f64) -> f64,
    ) -> fmt::Result {
        let line = &self.lines[at];
        let points: Vec<_> = line.points.iter().map(|&[x, y]| format!("{:.1},{:.1}", x_of(x), y_of(y))).collect();
        writeln!(svg, "<polyline class=\"line{at}\" points=\"{}\"/>", points.join(" "))?;
        for &[x, y] in &line.points {
            let (cx, cy) = (x_of(x), y_of(y));
            writeln!(svg, "<circle class=\"dot{at}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"/>")?;
            if at == 0 && self.lines.len() <= 2 {
                let y_text = cy - 9.0;
                writeln!(svg, "<text class=\"middle\" x=\"{cx:.1}\" y=\"{y_text:.1}\">{}</text>", number(y))?;
            }
        }
        Ok(())
    }
}

/// How values become shares of a vertical axis.
struct Scale {
    vertical: Vertical,
    /// Least and largest value, or their decimal logarithms.
    ends: [f64; 2],
    /// Values with their texts.
    ticks: Vec<(f64, String)>,
}

impl Scale {
    fn new(vertical: Vertical, values: impl Iterator<Item = f64> + Clone) -> Self {
        match vertical {
            Vertical::FromZero => {
                let step = tick_step(values.clone().fold(0.0, f64::max));
                let steps = values.map(|value| (value / step).ceil()).fold(1.0, f64::max);
                let ticks = (0..=steps as usize).map(|tick| (tick as f64 * step, number(tick as f64 * step)));
                Self { vertical, ends: [0.0, steps * step], ticks: ticks.collect() }
            }
            Vertical::ByFactors { floor } => {
                let logs = values.map(|value| value.max(floor).log10());
                let low = logs.clone().fold(f64::INFINITY, f64::min).floor().min(0.0);
                let high = logs.fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
                // At most about eight of them.
                let step = ((high - low) / 8.0).ceil() as usize;
                let ticks = (low as i32..=high as i32).step_by(step).map(|exponent| {
                    let text = if (-3..4).contains(&exponent) {
                        number(10f64.powi(exponent))
                    } else {
                        format!("1e{exponent}")
                    };
                    (10f64.powi(exponent), text)
                });
                Self { vertical, ends: [low, high], ticks: ticks.collect() }
            }
        }
    }

    fn share(&self, value: f64) -> f64 {
        let [low, high] = self.ends;
        match self.vertical {
            Vertical::FromZero => value / high,
            Vertical::ByFactors { floor } => (value.max(floor).log10() - low) / (high - low),
        }
    }
}

fn text_width(text: &str) -> f64 {
    6.6 * text.len() as f64
}

/// Width that a line takes in the legend.
fn entry_width(line: &Line) -> f64 {
    text_width(&line.name) + 54.0
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
            vertical: Vertical::FromZero,
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

    #[test]
    fn factors_are_distances_and_what_is_below_the_floor_stands_on_it() {
        let scale = Scale::new(Vertical::ByFactors { floor: 1e-6 }, [50.0, 0.02, 0.0, 1e-9].into_iter());
        assert_eq!(scale.ends, [-6.0, 2.0]);
        assert_eq!([100.0, 0.01, 0.0, 1e-9].map(|value| scale.share(value)), [1.0, 0.5, 0.0, 0.0]);
        let texts: Vec<_> = scale.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(texts, ["1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1", "1", "10", "100"]);
    }

    #[test]
    fn many_lines_have_a_legend_of_several_rows() {
        let line = |number: usize| Line { name: format!("line number {number}"), points: vec![[0.0, 1.0], [1.0, 2.0]] };
        let chart = |lines: usize| Chart {
            x_label: "x".into(),
            y_label: "y".into(),
            by_factors: false,
            vertical: Vertical::FromZero,
            lines: (0..lines).map(line).collect(),
        };
        assert_eq!(chart(1).height(), CHART);
        assert_eq!(chart(9).legend().concat(), (0..9).collect::<Vec<_>>());
        let charts = vec![chart(9), chart(2)];
        let (shift, height) = (charts[0].shift(), HEAD + charts[0].height() + CHART);
        assert!(shift >= ROW, "{shift}");
        let svg = Figure { title: "t".into(), subtitles: ["".into(), "".into()], charts }.svg();
        assert!(svg.contains(&format!("height=\"{height}\"")) && svg.contains(".line8{"), "{svg}");
        // Values are written where there are few lines.
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (11, 22));
        assert_eq!(svg.matches(">2</text>").count(), 3, "{svg}");
    }
}
