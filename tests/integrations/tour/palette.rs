//! Makes a picture of a page small: it has few colours, so one byte for each pixel is enough.

use std::{cmp::Reverse, collections::HashMap, io::Cursor};

use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Filter};

type Colour = [u8; 3];

/// Colours that are closer than this look the same. It is small enough that a page keeps its
/// colours, and large enough that the shades at the edges of letters fit into a palette.
const DISTANCE: u32 = 8;

/// Returns the same picture with a palette.
pub(crate) fn with_palette(picture: &[u8]) -> Vec<u8> {
    let mut reader = Decoder::new(Cursor::new(picture))
        .read_info()
        .expect("the browser makes a picture");
    let mut bytes = vec![
        0;
        reader
            .output_buffer_size()
            .expect("a page is not that large")
    ];
    let info = reader.next_frame(&mut bytes).expect("it is complete");
    assert_eq!(info.color_type, ColorType::Rgb, "a page is opaque");
    let pixels: Vec<Colour> = bytes[..info.buffer_size()]
        .chunks_exact(3)
        .map(|part| [part[0], part[1], part[2]])
        .collect();

    let mut counts = HashMap::<Colour, usize>::new();
    for pixel in &pixels {
        *counts.entry(*pixel).or_default() += 1;
    }
    let mut colours: Vec<_> = counts.into_iter().collect();
    // The colour itself is a part of the key, so that the picture does not depend on the map.
    colours.sort_by_key(|(colour, count)| (Reverse(*count), *colour));
    let mut palette = Vec::<Colour>::new();
    let mut places = HashMap::new();
    for (colour, _) in colours {
        let place = match nearest(&palette, colour) {
            Some((place, distance)) if distance < DISTANCE * DISTANCE => place,
            _ => {
                palette.push(colour);
                palette.len() - 1
            }
        };
        places.insert(colour, u8::try_from(place).expect("there are at most 256"));
    }
    let indices: Vec<_> = pixels.iter().map(|pixel| places[pixel]).collect();

    let mut small = Vec::new();
    let mut encoder = Encoder::new(&mut small, info.width, info.height);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette.concat());
    encoder.set_compression(Compression::High);
    // The filters of PNG compare colours by their numbers, which mean nothing in a palette.
    encoder.set_filter(Filter::NoFilter);
    let mut writer = encoder.write_header().expect("a vector takes all bytes");
    writer
        .write_image_data(&indices)
        .expect("a vector takes all bytes");
    writer.finish().expect("a vector takes all bytes");
    small
}

/// Returns the place of the most similar colour, and the square of its distance.
fn nearest(palette: &[Colour], colour: Colour) -> Option<(usize, u32)> {
    let distance = |other: &Colour| -> u32 {
        let parts = other.iter().zip(colour);
        parts
            .map(|(one, two)| u32::from(one.abs_diff(two)).pow(2))
            .sum()
    };
    let distances = palette.iter().map(distance).enumerate();
    distances.min_by_key(|(_, distance)| *distance)
}
