//! Whether the hub answers, and whether there is a token for it. The token is not sent: whether it is a good one is for the
//! hub to say when something is fetched.

use crate::open;
use crate::source::http::settings::{Settings, Timeouts};
use crate::source::http::{Client, Request};
use crate::source::hub::endpoint::Endpoint;
use crate::source::hub::token;
use std::time::{Duration, Instant};

/// How long the hub is waited for, in all.
const PATIENCE: Duration = Duration::from_millis(2500);

/// The hub, or the mirror that is used in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct HubFacts {
    /// Its host.
    pub host: String,
    /// Seconds until it answered anything at all, and with which status; or why it did not.
    pub answer: Result<(f64, u16), String>,
    /// The variable or the file that the token is from; `None` where there is none. Or why it cannot be used.
    pub token_from: Result<Option<String>, String>,
}

/// Asks once.
pub(super) fn ask(options: &open::Options, stop: &(dyn Fn() -> bool + Sync)) -> HubFacts {
    let variable = |name: &str| std::env::var_os(name);
    let token = token::find_with_place(options.token_file.as_deref(), variable);
    let token_from = token.map(|found| found.map(|(_, place)| place)).map_err(|e| super::one_line(&e));
    let endpoint = match &options.hub_endpoint {
        Some(endpoint) => Endpoint::parse(endpoint),
        None => Endpoint::from_environment(variable),
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(e) => {
            return HubFacts { host: "HF_ENDPOINT".into(), answer: Err(super::one_line(&e)), token_from };
        }
    };
    let started = Instant::now();
    let is_over = || stop() || started.elapsed() >= PATIENCE;
    let answer = Settings::from_environment(variable)
        .and_then(|settings| {
            let timeouts = Timeouts { connect: PATIENCE, answer: PATIENCE, ..settings.timeouts };
            Client::with(&Settings { timeouts, ..settings })
        })
        .and_then(|client| client.send(&Request::get(endpoint.url()), &is_over))
        .map(|response| (started.elapsed().as_secs_f64(), response.status()))
        .map_err(|e| match started.elapsed() >= PATIENCE {
            true => format!("no answer in {:.1} s", PATIENCE.as_secs_f64()),
            false => super::one_line(&e),
        });
    HubFacts { host: endpoint.host(), answer, token_from }
}
