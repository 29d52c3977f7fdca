//! Colours, and how a drawing becomes one that is readable in light and in dark.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{Answer, Failure};

/// A colour, and what stands for it where the background is dark.
pub struct Ink {
    light: RGBColor,
    dark: RGBColor,
}

const fn ink(light: (u8, u8, u8), dark: (u8, u8, u8)) -> Ink {
    Ink {
        light: RGBColor(light.0, light.1, light.2),
        dark: RGBColor(dark.0, dark.1, dark.2),
    }
}

impl Ink {
    pub const fn color(&self) -> RGBColor {
        self.light
    }
}

pub const TEXT: Ink = ink((36, 41, 47), (230, 237, 243));
pub const GRID: Ink = ink((208, 215, 222), (56, 64, 73));
pub const OURS: Ink = ink((9, 105, 218), (88, 166, 255));
pub const OTHERS: Ink = ink((140, 149, 159), (125, 133, 144));
/// Of what never comes.
pub const NEVER: Ink = ink((255, 206, 203), (103, 30, 30));

/// Of the lines of others, in turn.
pub const PALETTE: [Ink; 9] = [
    ink((87, 96, 106), (145, 152, 161)),
    ink((188, 76, 0), (240, 136, 62)),
    ink((26, 127, 55), (63, 185, 80)),
    ink((130, 80, 223), (188, 140, 255)),
    ink((207, 34, 46), (255, 123, 114)),
    ink((154, 103, 0), (210, 153, 34)),
    ink((191, 57, 137), (247, 120, 186)),
    ink((27, 124, 131), (57, 197, 207)),
    ink((101, 109, 118), (139, 148, 158)),
];

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Has `draw` draw on an empty sheet, and returns it as text.
pub fn sheet(size: (u32, u32), draw: impl FnOnce(&Area) -> Answer<()>) -> Answer<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(with_style(&svg))
}

/// What plotters says of a failure does not outlive the sheet.
pub fn failed(error: impl std::error::Error) -> Failure {
    error.to_string().into()
}

/// Rules of style are stronger than the colours of the elements.
fn with_style(svg: &str) -> String {
    let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
    let rule = |ink: &Ink| {
        let (light, dark) = (hex(ink.light), hex(ink.dark));
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}\n")
    };
    let inks = [TEXT, GRID, OURS, OTHERS, NEVER];
    let rules: String = inks.iter().chain(&PALETTE).map(rule).collect();
    let style = format!("<style>\n@media (prefers-color-scheme: dark) {{\n{rules}}}\n</style>\n");
    match svg.split_once(">\n") {
        Some((head, rest)) => format!("{head}>\n{style}{rest}"),
        None => svg.to_string(),
    }
}

pub fn text(size: u32, across: HPos) -> TextStyle<'static> {
    colored(size, across, TEXT.color())
}

pub fn colored(size: u32, across: HPos, color: RGBColor) -> TextStyle<'static> {
    TextStyle {
        // Without the font at hand, plotters takes a size to be that of capital letters and more.
        font: ("sans-serif", f64::from(size) * 1.24).into_font(),
        color: color.to_backend_color(),
        pos: Pos::new(across, VPos::Center),
    }
}

/// Powers of ten around all of them.
pub fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().filter(|v| *v > 0.0).fold(f64::MAX, f64::min);
    let high = values.fold(f64::MIN_POSITIVE, f64::max);
    let power = |value: f64| 10f64.powf(value);
    let low = power((low.min(high) * 0.999).log10().floor());
    (low, power(high.log10().ceil()).max(low * 10.0))
}

/// A short number for an axis.
pub fn tick(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{:.prec$}", v, prec = (-v.log10()).ceil().max(0.0) as usize),
    }
}
