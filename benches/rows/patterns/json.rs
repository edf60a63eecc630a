//! A service that parses a request and serialises its answer.

use std::hint::black_box;

use serde_json::{Value, json};

use slackwater_benches::cores::side_by_side;
use slackwater_benches::ring::ring;
use slackwater_benches::rows::{Measured, timed};

/// One thread does both. An operation is a request.
pub fn alone(requests: u64) -> Measured {
    let request = request();
    timed(requests, || {
        for number in 0..requests {
            black_box(serialised(parsed(&request, number)));
        }
    })
}

/// One thread parses, the other serialises and frees what the first allocated.
pub fn handed_over(requests: u64) -> Measured {
    let request = &request();
    let (mut sender, mut receiver) = ring::<Value, 64>(8);
    let elapsed = side_by_side(vec![
        Box::new(move || (0..requests).for_each(|number| sender.send(parsed(request, number)))),
        Box::new(move || {
            for _ in 0..requests {
                black_box(serialised(receiver.receive()));
            }
        }),
    ]);
    Measured { operations: requests, elapsed }
}

/// An order of 40 items, as text.
fn request() -> String {
    let items: Vec<_> = (0..40)
        .map(|item| {
            json!({
                "article": format!("article-{item:05}"), "count": item % 7, "price": 1.25 * f64::from(item),
                "tags": ["new", "fragile", format!("shelf {item}")], "note": null, "gift": item % 2 == 0,
            })
        })
        .collect();
    let customer =
        json!({ "name": "A. Customer", "mail": "customer@example.com", "city": "Ürümqi" });
    json!({ "order": 1, "customer": customer, "items": items }).to_string()
}

fn parsed(request: &str, number: u64) -> Value {
    let mut order: Value = serde_json::from_str(request).expect("it is made of JSON");
    order["order"] = number.into();
    order["state"] = "accepted".into();
    order
}

fn serialised(order: Value) -> String {
    order.to_string()
}
