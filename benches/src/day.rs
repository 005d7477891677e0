//! A day of a registry: who pushes and pulls what, without any I/O
//!
//! Images have 5 to 10 layers. The lowest ones come from a few bases that many images share; the
//! rest is an image's own. What is pulled follows Zipf: the image of rank `k` is asked for in
//! proportion to `1 / k`. All of it follows from one seed, so that a load can be run again.

use crate::content::{Blob, Image};
use crate::random::Random;

/// How many bases there are
const BASES: u64 = 20;
/// How many layers a base has
const BASE_LAYERS: u64 = 3;
/// The smallest layers, which are half of all; each size that is twice as large is half as often
const SMALLEST: u64 = 4 << 10;
/// How often a size may be doubled: up to 4 MiB, which is one layer of 1,024
const DOUBLINGS: u32 = 10;
/// The least and the most layers of an image
const LAYERS: (u64, u64) = (5, 10);

/// The image with this number
pub fn image(number: u64) -> Image {
    let mut random = Random::new(number ^ 0x1a6e);
    let base = random.below(BASES);
    let count = LAYERS.0 + random.below(LAYERS.1 - LAYERS.0 + 1);
    let layers = (0..count).map(|layer| match layer {
        shared if shared < BASE_LAYERS => layer_of((1 << 40) + base * BASE_LAYERS + shared),
        own => layer_of((1 << 41) + number * LAYERS.1 + own),
    });
    Image::new((1 << 42) + number, layers.collect())
}

fn layer_of(seed: u64) -> Blob {
    let doublings = Random::new(seed).next().trailing_zeros().min(DOUBLINGS);
    Blob::new(seed, SMALLEST << doublings)
}

/// The repository and the tag of the image with this number: ten images to a repository
pub fn place(number: u64) -> (String, String) {
    let repository = number / 10;
    (
        format!("team-{}/app-{repository}", repository % 50),
        format!("v{}", number % 10),
    )
}

/// Which of `count` images is pulled next, the first ones most often
///
/// By the inverse of the harmonic numbers, which are near the logarithm.
pub fn popular(random: &mut Random, count: u64) -> u64 {
    let rank = ((count as f64 + 1.0).ln() * random.unit()).exp() - 1.0;
    (rank as u64).min(count.saturating_sub(1))
}

/// Whether a client pushes next, as `percent` of a hundred do; where nothing is, it must
pub fn pushes(random: &mut Random, there: u64, percent: u64) -> bool {
    there == 0 || random.below(100) < percent
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn images_have_five_to_ten_layers_and_share_their_bases() {
        let mut uses: BTreeMap<_, u64> = BTreeMap::new();
        for number in 0..100 {
            let image = image(number);
            assert!((5..=10).contains(&image.layers.len()));
            for layer in &image.layers {
                *uses.entry(layer.digest).or_default() += 1;
            }
        }
        let shared = uses.values().filter(|uses| **uses > 1).count() as u64;
        assert!((BASES..=BASES * BASE_LAYERS).contains(&shared), "{shared}");
        assert_eq!(image(7).digest, image(7).digest);
        assert_ne!(image(7).digest, image(8).digest);
    }

    #[test]
    fn the_first_image_is_pulled_twice_as_often_as_the_second() {
        let mut random = Random::new(1);
        let mut pulls = vec![0_u32; 1_000];
        for _ in 0..200_000 {
            pulls[popular(&mut random, 1_000) as usize] += 1;
        }
        // ln 2 / ln 1001 of all, and ln 1.5 / ln 1001.
        let share = |rank: usize| f64::from(pulls[rank]) / 200_000.0;
        assert!((share(0) - 0.1003).abs() < 0.005, "{}", share(0));
        assert!((share(1) - 0.0587).abs() < 0.005, "{}", share(1));
        assert!(pulls[999] < 200);
    }

    #[test]
    fn small_layers_are_many_and_large_ones_few() {
        let sizes: Vec<u64> = (0..4_096).map(|seed| layer_of(seed).size).collect();
        let small = sizes.iter().filter(|size| **size == SMALLEST).count();
        assert!((1_900..2_200).contains(&small), "{small}");
        let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
        assert!((18 << 10..30 << 10).contains(&mean), "{mean}");
        assert!(sizes.iter().all(|size| *size <= SMALLEST << DOUBLINGS));
    }

    #[test]
    fn a_tenth_are_pushes_and_the_first_is_one() {
        let mut random = Random::new(2);
        assert!(pushes(&mut random, 0, 0));
        let pushes = (0..10_000).filter(|_| pushes(&mut random, 50, 10));
        let count = pushes.count();
        assert!((900..1_100).contains(&count), "{count}");
        assert_ne!(place(9), place(10));
    }
}
