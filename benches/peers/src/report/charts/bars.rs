//! Bars that lie, on a scale of powers of ten.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::super::markdown::digits;
use super::canvas::{Area, GRID, NEVER, OTHERS, OURS, decades, failed, sheet, text, tick};
use crate::Answer;

pub struct Bar {
    label: String,
    /// `None`: never.
    pub value: Option<f64>,
}

impl Bar {
    pub fn new(label: &str, value: Option<f64>) -> Bar {
        let label = label.to_string();
        Bar { label, value }
    }
}

const WIDTH: u32 = 860;
const BAR: u32 = 20;
const HEAD: u32 = 40;
const FOOT: u32 = 28;

/// One below the other.
pub fn chart(title: &str, bars: &[Bar]) -> Answer<String> {
    let height = HEAD + FOOT + BAR * bars.len() as u32;
    sheet((WIDTH, height), |area| {
        heading(area, title)?;
        panel(&area.margin(HEAD, 0, 0, 0), bars, 250)
    })
}

/// Several charts, two in a row.
pub fn panels(title: &str, panels: &[(String, Vec<Bar>)]) -> Answer<String> {
    const NAME: u32 = 22;
    let most = panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0) as u32;
    let each = NAME + FOOT + BAR * most;
    let rows = panels.len().div_ceil(2);
    sheet((WIDTH, HEAD + each * rows as u32), |area| {
        heading(area, title)?;
        let places = area.margin(HEAD, 0, 0, 0).split_evenly((rows, 2));
        for (place, (name, bars)) in places.iter().zip(panels) {
            place
                .draw_text(name, &text(13, HPos::Left), (12, 10))
                .map_err(failed)?;
            let unused = (most - bars.len() as u32) * BAR;
            panel(&place.margin(NAME, unused, 0, 0), bars, 195)?;
        }
        Ok(())
    })
}

fn heading(area: &Area, title: &str) -> Answer<()> {
    area.draw_text(title, &text(16, HPos::Left), (12, 18))
        .map_err(failed)
}

/// The bars with their axis; `labels` pixels are for the names.
fn panel(area: &Area, bars: &[Bar], labels: u32) -> Answer<()> {
    if bars.is_empty() {
        return Ok(());
    }
    let (low, high) = decades(bars.iter().filter_map(|bar| bar.value));
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(FOOT)
        .margin_left(labels)
        // The figures stand to the right of their bars.
        .margin_right(70)
        .build_cartesian_2d((low..high).log_scale(), 0.0..bars.len() as f64)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.color())
        .axis_style(GRID.color())
        .x_labels((high / low).log10().round() as usize + 1)
        .x_label_formatter(&|value| tick(*value))
        .x_label_style(text(11, HPos::Center))
        .draw()
        .map_err(failed)?;
    for (at, bar) in bars.iter().enumerate() {
        // The first one is at the top.
        let y = (bars.len() - at) as f64 - 0.5;
        let (end, color, figure) = match bar.value {
            Some(value) => (value.max(low), bar.color(), digits(value)),
            None => (high, NEVER.color(), "never".into()),
        };
        let rectangle = Rectangle::new([(low, y - 0.34), (end, y + 0.34)], color.filled());
        chart.draw_series([rectangle]).map_err(failed)?;
        let (left, middle) = chart.backend_coord(&(low, y));
        let (right, _) = chart.backend_coord(&(end, y));
        let (x, top) = area.get_base_pixel();
        let write = |text: &str, style: &TextStyle, at: i32| {
            area.draw_text(text, style, (at - x, middle - top))
                .map_err(failed)
        };
        write(&bar.label, &text(12, HPos::Right), left - 6)?;
        write(&figure, &text(11, HPos::Left), right + 5)?;
    }
    Ok(())
}

impl Bar {
    fn color(&self) -> RGBColor {
        match self.label.starts_with("slablock") {
            true => OURS.color(),
            false => OTHERS.color(),
        }
    }
}
