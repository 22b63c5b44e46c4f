//! The chart: 95th percentiles of the time to the first token, a group of bars a scenario, a bar a policy.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::report::Section;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 440.0;
/// Where the bars are: the edges of the plot.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 944.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 384.0;
/// The part of a group's width that its bars take.
const FILLED: f64 = 0.8;
/// One a policy, to be told apart on light and on dark, also by those who see fewer colours.
const COLOURS: [&str; 8] =
    ["#8a919c", "#c8ab7d", "#56a0d3", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#7a6ff0"];

const STYLE: &str = "\
<style>
  svg { color-scheme: light dark; font-family: system-ui, sans-serif; font-size: 13px; }
  .paper { fill: #ffffff; } .ink { fill: #1f2328; } .faint { fill: #59636e; } .line { stroke: #d1d9e0; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; } .ink { fill: #f0f6fc; } .faint { fill: #9198a1; } .line { stroke: #3d444d; }
  }
</style>
";

/// Draws the chart as an SVG document.
///
/// # Errors
/// When there is nothing to draw.
pub fn draw(sections: &[Section<'_>]) -> Result<String> {
    let policies: Vec<_> =
        sections.first().context("a scenario")?.rows.iter().map(|(name, _)| *name).collect();
    let scale = Scale::of(sections).context("a figure above 0")?;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"title\">\n<title id=\"title\">{TITLE}</title>\n{STYLE}\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
         <text class=\"ink\" x=\"{LEFT}\" y=\"30\" font-size=\"17\" font-weight=\"600\">{TITLE}</text>\n"
    );
    legend(&mut svg, &policies)?;
    axis(&mut svg, &scale)?;
    let mut group = LEFT;
    let group_width = (RIGHT - LEFT) / number(sections.len());
    for section in sections {
        let width = group_width * FILLED / number(policies.len());
        let mut left = group + group_width * (1.0 - FILLED) / 2.0;
        for ((name, figures), colour) in section.rows.iter().zip(COLOURS.iter().cycle()) {
            let (top, p95) = (scale.height_of(figures.p95), figures.p95);
            writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
                 <title>{}, {name}: {p95:.2} s</title></rect>",
                (width - 1.5).max(1.0),
                BOTTOM - top,
                section.scenario.name
            )?;
            left += width;
        }
        writeln!(
            svg,
            "<text class=\"ink\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            group + group_width / 2.0,
            BOTTOM + 20.0,
            section.scenario.name
        )?;
        group += group_width;
    }
    writeln!(
        svg,
        "<text class=\"faint\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">scenario</text>\n</svg>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 44.0
    )?;
    Ok(svg)
}

const TITLE: &str = "Time to first token, 95th percentile, by policy";

fn legend(svg: &mut String, policies: &[&str]) -> Result<()> {
    let mut left = LEFT;
    for (name, colour) in policies.iter().zip(COLOURS.iter().cycle()) {
        writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"47\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text class=\"ink\" x=\"{:.1}\" y=\"58\">{name}</text>",
            left + 17.0
        )?;
        // Letters are about this wide.
        left += 44.0 + 7.5 * number(name.len());
    }
    Ok(())
}

fn axis(svg: &mut String, scale: &Scale) -> Result<()> {
    let mut exponent = scale.from;
    while exponent <= scale.to {
        let y = scale.height_of(10_f64.powf(exponent));
        writeln!(
            svg,
            "<line class=\"line\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/>\
             <text class=\"faint\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            10_f64.powf(exponent)
        )?;
        exponent += 1.0;
    }
    let middle = f64::midpoint(TOP, BOTTOM);
    writeln!(
        svg,
        "<text class=\"faint\" transform=\"translate(22 {middle}) rotate(-90)\" text-anchor=\"middle\">\
         seconds, logarithmic: less is better</text>"
    )?;
    Ok(())
}

/// A logarithmic axis from one power of ten to another.
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn of(sections: &[Section<'_>]) -> Option<Self> {
        let figures = sections.iter().flat_map(|section| &section.rows).map(|(_, figures)| figures.p95);
        let logarithms: Vec<_> = figures.filter(|p95| *p95 > 0.0).map(f64::log10).collect();
        let from = logarithms.iter().copied().min_by(f64::total_cmp)?.floor();
        let to = logarithms.iter().copied().max_by(f64::total_cmp)?.ceil();
        Some(Self { from, to: to.max(from + 1.0) })
    }

    fn height_of(&self, seconds: f64) -> f64 {
        let part = (seconds.log10() - self.from) / (self.to - self.from);
        BOTTOM - part.clamp(0.0, 1.0) * (BOTTOM - TOP)
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
