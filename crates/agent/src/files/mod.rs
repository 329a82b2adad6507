//! Files.
use crate::{connection::Caller, failure::Refusal};
use fermata_protocol::agent::request::Call;
use fermata_protocol::agent::response::Result as Answer;
pub(crate) fn perform(_caller: &Caller, _call: Call) -> Result<Answer, Refusal> {
    Err(Refusal::invalid("this agent does not know the call"))
}
