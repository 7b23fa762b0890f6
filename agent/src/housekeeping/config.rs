//! What housekeeping is told, as kubelet spells it.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;

use super::images::AGE_MIN;
use super::thresholds::{Threshold, Thresholds};

/// Its part of a command line.
#[derive(Debug, Clone, Args)]
pub struct HousekeepingArgs {
    #[arg(long, value_name = "SIGNAL<THRESHOLD", value_delimiter = ',', help = Thresholds::HELP)]
    pub eviction_hard: Vec<Threshold>,
    /// How long an image may be unused before it is removed, however much disk is left, such as 168h; 0s keeps it
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = image_gc_max_age)]
    pub image_gc_max_age: Duration,
}

impl HousekeepingArgs {
    pub fn build(&self) -> HousekeepingConfig {
        HousekeepingConfig {
            eviction_hard: Thresholds::given(&self.eviction_hard),
            image_gc_max_age: Some(self.image_gc_max_age).filter(|age| !age.is_zero()),
        }
    }
}

/// When pods and images have to go.
#[derive(Clone, Debug, Default)]
pub struct HousekeepingConfig {
    /// What may be left of the host before pods have to go.
    pub eviction_hard: Thresholds,
    /// Images that were unused for longer are removed, however much disk is left.
    pub image_gc_max_age: Option<Duration>,
}

/// Written as Go writes durations. Kubelet too refuses what would take images that were just pulled.
fn image_gc_max_age(text: &str) -> Result<Duration, String> {
    let duration = if text == "0" { Ok(SignedDuration::ZERO) } else { text.parse() };
    let age = duration.ok().and_then(|duration: SignedDuration| Duration::try_from(duration).ok());
    age.filter(|age| age.is_zero() || *age > AGE_MIN)
        .ok_or_else(|| format!("{text:?} is neither 0s nor a duration of more than two minutes (168h, 1h30m)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_images_is_written_as_a_duration_of_kubelets() {
        let read = |text: &str| image_gc_max_age(text).map(|age| age.as_secs());
        assert_eq!(
            ["0", "0s", "168h", "336h0m0s", "1h30m", "2m1s"].map(read),
            [0, 0, 604_800, 1_209_600, 5400, 121].map(Ok)
        );
        for text in ["", "2m", "-168h", "168", "7d", "long"] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(&format!("{text:?} is neither 0s nor")), "{error}");
        }
    }

    #[test]
    fn no_age_is_the_default() {
        let args = |age| HousekeepingArgs { eviction_hard: Vec::new(), image_gc_max_age: age };
        assert_eq!(args(Duration::ZERO).build().image_gc_max_age, HousekeepingConfig::default().image_gc_max_age);
        assert_eq!(args(AGE_MIN * 2).build().image_gc_max_age, Some(AGE_MIN * 2));
    }
}
