//! Lines between points, both ways on a scale of powers.

use plotters::coord::combinators::LogCoord;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::canvas::{Area, GRID, OURS, PALETTE, colored, decades, failed, sheet, text, tick};
use crate::Answer;

pub struct Line {
    label: String,
    pub points: Vec<(f64, f64)>,
}

impl Line {
    pub fn new(label: &str, points: Vec<(f64, f64)>) -> Line {
        let label = label.to_string();
        Line { label, points }
    }
}

const SIZE: (u32, u32) = (860, 440);
/// For the names at the ends of the lines.
const RIGHT: u32 = 190;
/// Names do not come closer to one another.
const APART: i32 = 15;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;
/// Where a line ends, whose it is, and its colour.
type End<'a> = (i32, i32, &'a str, RGBColor);

pub fn chart(title: &str, across: &str, lines: &[Line]) -> Answer<String> {
    sheet(SIZE, |area| {
        let heading = text(16, HPos::Left);
        area.draw_text(title, &heading, (12, 18)).map_err(failed)?;
        let mut chart = axes(area, across, lines)?;
        let mut ends = Vec::new();
        for (line, color) in lines.iter().zip(colors(lines)) {
            ends.extend(draw(&mut chart, line, color)?);
        }
        for (x, y, label, color) in apart(ends) {
            let style = colored(12, HPos::Left, color);
            area.draw_text(label, &style, (x + 8, y)).map_err(failed)?;
        }
        Ok(())
    })
}

fn axes<'a, 'b>(area: &'a Area<'b>, across: &str, lines: &[Line]) -> Answer<Chart<'a, 'b>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (low, high) = decades(points().map(|(_, y)| *y));
    let right = points().map(|(x, _)| *x).fold(2.0, f64::max);
    let left = points().map(|(x, _)| *x).fold(right, f64::min);
    let mut chart = ChartBuilder::on(area)
        .margin_top(40)
        .margin_right(RIGHT)
        .margin_left(8)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(
            (left..right).log_scale().base(base(right)),
            (low..high).log_scale(),
        )
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.color())
        .axis_style(GRID.color())
        .x_desc(across)
        .x_labels((right / left).log(base(right)).round() as usize + 1)
        .y_labels((high / low).log10().round() as usize + 1)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style(text(11, HPos::Center))
        .axis_desc_style(text(12, HPos::Center))
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

fn draw<'a>(chart: &mut Chart, line: &'a Line, color: RGBColor) -> Answer<Option<End<'a>>> {
    let width = if color == OURS.color() { 3 } else { 2 };
    let style = color.stroke_width(width);
    let points = line.points.iter().copied();
    let dots = points.clone().map(|at| Circle::new(at, 3, color.filled()));
    let drawn = chart.draw_series(LineSeries::new(points.clone(), style));
    drawn.map_err(failed)?;
    chart.draw_series(dots).map_err(failed)?;
    Ok(points.last().map(|last| {
        let (x, y) = chart.backend_coord(&last);
        (x, y, line.label.as_str(), color)
    }))
}

/// Few processes are told apart by doublings, many keys by tens.
fn base(x_max: f64) -> f64 {
    if x_max > 64.0 { 10.0 } else { 2.0 }
}

fn colors(lines: &[Line]) -> Vec<RGBColor> {
    let mut others = PALETTE.iter().cycle();
    let color = |line: &Line| match line.label.starts_with("slablock") {
        true => OURS.color(),
        false => others.next().map_or(GRID.color(), |ink| ink.color()),
    };
    lines.iter().map(color).collect()
}

/// Names that would lie over one another are moved down.
fn apart(mut ends: Vec<End>) -> Vec<End> {
    ends.sort_by_key(|(x, y, ..)| (*x, *y));
    for column in ends.chunk_by_mut(|one, other| one.0 == other.0) {
        for at in 1..column.len() {
            column[at].1 = column[at].1.max(column[at - 1].1 + APART);
        }
        // What is below the sheet then moves everything up again.
        let mut lowest = SIZE.1 as i32 - 12;
        for end in column.iter_mut().rev() {
            end.1 = end.1.min(lowest);
            lowest = end.1 - APART;
        }
    }
    ends
}
