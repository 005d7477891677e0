//! What was aimed at, and what the plot shows

use registry_benches::plot::Panel;
use registry_benches::report::{Goal, Target};
use registry_benches::site::Kind;

use crate::runner::{Runner, Sizes, size};
use crate::{images, lists, memory, pulls, pushes, requests, s3};

/// The first number of a cell, and the second
const RATE: usize = 0;
const COST: usize = 1;

/// The goals of the project, against what was measured
pub(crate) fn goals(runner: &Runner) -> Vec<Goal> {
    let Sizes {
        small,
        medium,
        large,
        many,
        crowd,
        lists: [_, entries],
    } = runner.sizes;
    let mut goals = Vec::new();
    let mut goal = |what: String, measured, target, unit| {
        goals.push(Goal {
            what,
            measured,
            target,
            unit,
        });
    };
    use Kind::{Distribution, Nginx, Ours};
    use Target::{AtLeast, AtMost, Under};

    for what in [requests::BY_TAG, requests::BY_DIGEST] {
        goal(
            format!("{what}: requests a second, to docker-registry's"),
            runner.ratio("requests", what, Distribution, RATE),
            AtLeast(30.0),
            "x",
        );
        goal(
            format!("{what}: CPU per request, to nginx's for a file"),
            runner.ratio("requests", what, Nginx, COST),
            AtMost(1.5),
            "x",
        );
    }
    for bytes in [small, medium] {
        for count in pulls::CLIENTS {
            let what = pulls::whole(bytes, count);
            goal(
                format!("pull of {what}: CPU per GiB, to nginx's"),
                runner.ratio(pulls::PLAIN, &what, Nginx, COST),
                AtMost(1.1),
                "x",
            );
            for other in [Nginx, Distribution] {
                goal(
                    format!("pull of {what}: throughput, to {other}'s"),
                    runner.ratio(pulls::PLAIN, &what, other, RATE),
                    AtLeast(1.0),
                    "x",
                );
            }
            goal(
                format!("pull of {what} over TLS: throughput, to nginx's"),
                runner.ratio(pulls::TLS, &what, Nginx, RATE),
                AtLeast(1.0),
                "x",
            );
        }
    }
    for (streams, target) in [(1, 4.0), (8, 3.0)] {
        let what = pushes::large(large, streams, "monolithic");
        goal(
            format!("push of {what}: throughput, to docker-registry's"),
            runner.ratio(pushes::LARGE, &what, Distribution, RATE),
            AtLeast(target),
            "x",
        );
    }
    let what = format!("{}, monolithic", pushes::small(many, 8));
    goal(
        format!("push of {what}: blobs a second, to docker-registry's"),
        runner.ratio(pushes::SMALL, &what, Distribution, RATE),
        AtLeast(3.0),
        "x",
    );
    goal(
        "memory, idle".to_owned(),
        runner.value(memory::ID, memory::IDLE, Ours, 0),
        Under(15.0),
        " MiB",
    );
    let what = memory::peak(crowd, medium);
    goal(
        format!("memory, {what}"),
        runner.value(memory::ID, &what, Ours, 0),
        Under(64.0),
        " MiB",
    );
    for list in ["catalog", "tags"] {
        let later = lists::page(list, entries, true);
        goal(
            later.clone(),
            runner.value(lists::LISTS, &later, Ours, 0),
            Under(5.0),
            " ms",
        );
        let first = lists::page(list, entries, false);
        let time = runner.value(lists::LISTS, &first, Ours, 0);
        let listing = lists::listing(list, entries);
        let listing = runner.value(lists::LISTS, &listing, Ours, 0);
        goal(
            format!("{first}, to reading the folders once"),
            time.zip(listing).map(|(time, listing)| time / listing),
            AtMost(1.0),
            "x",
        );
    }
    let what = lists::start(entries);
    goal(
        format!("start {what}, to the first answer"),
        runner.value(lists::START, &what, Ours, 0),
        Under(50.0),
        " ms",
    );
    goals
}

/// The cases that tell most
pub(crate) fn panels(runner: &Runner) -> Vec<Panel> {
    let Sizes {
        medium,
        large,
        many,
        ..
    } = runner.sizes;
    let cases = [
        (
            "requests",
            requests::BY_TAG.to_owned(),
            RATE,
            "Manifest by tag".to_owned(),
        ),
        (
            "requests",
            requests::BY_TAG.to_owned(),
            COST,
            "Manifest by tag".to_owned(),
        ),
        (
            pulls::PLAIN,
            pulls::whole(medium, 8),
            RATE,
            format!("Pull of {}", pulls::whole(medium, 8)),
        ),
        (
            pulls::PLAIN,
            pulls::whole(medium, 8),
            COST,
            format!("Pull of {}", pulls::whole(medium, 8)),
        ),
        (
            pulls::TLS,
            pulls::whole(medium, 8),
            RATE,
            format!("Pull of {} over TLS", pulls::whole(medium, 8)),
        ),
        (
            pushes::LARGE,
            pushes::large(large, 1, "monolithic"),
            RATE,
            format!("Push of {} in one stream", size(large)),
        ),
        (
            pushes::SMALL,
            format!("{}, monolithic", pushes::small(many, 8)),
            RATE,
            format!("Push of {}", pushes::small(many, 8)),
        ),
        (
            images::ID,
            images::PULL.to_owned(),
            RATE,
            "Pull of an image of 10 layers".to_owned(),
        ),
        (
            images::ID,
            images::PUSH.to_owned(),
            RATE,
            "Push of an image of 10 layers".to_owned(),
        ),
        (
            s3::ID,
            s3::PUSH.to_owned(),
            RATE,
            "Push of an image of 10 layers to S3".to_owned(),
        ),
        (
            memory::ID,
            memory::IDLE.to_owned(),
            0,
            "Memory, idle".to_owned(),
        ),
    ];
    let panel = |(id, row, measure, what): (&str, String, usize, String)| {
        let section = runner.sections.iter().find(|section| section.id == id)?;
        let cells = &section.rows.iter().find(|known| known.what == row)?.cells;
        let bars = cells
            .iter()
            .filter_map(|(kind, numbers)| Some((*kind, *numbers.get(measure)?)));
        let bars: Vec<(Kind, f64)> = bars.collect();
        let measure = section.measures.get(measure)?;
        (!bars.is_empty()).then_some(Panel {
            what,
            measure: measure.name,
            higher_is_better: measure.higher_is_better,
            bars,
        })
    };
    cases.into_iter().filter_map(panel).collect()
}
