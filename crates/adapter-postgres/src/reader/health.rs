//! Whether messages can be read now.

use async_trait::async_trait;
use warren_domain::MessageId;
use warren_domain::ports::{HealthCheck, MessageReader as _, ReadError, Unhealthy};

use super::statements::Statement;
use super::{PostgresReader, read_error};

/// Looks for a message that nobody has, as somebody would look for one: rights, the schema, a lock on the table and a
/// database that is away show themselves so. And asks for counts and filters, so that a right to them is not missed only when
/// searches are slow.
///
/// While every connection is lent nothing is asked, as to be busy is not to be ill: whoever has one, or waits to be connected,
/// finds out.
#[async_trait]
impl HealthCheck for PostgresReader {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        if self.pool.is_lent_out() {
            return match self.pool.fault() {
                None => Ok(()),
                Some(fault) => Err(Unhealthy(read_error(fault).to_string())),
            };
        }
        let unhealthy = |error: ReadError| Unhealthy(error.to_string());
        self.fetch(MessageId::generate()).await.map_err(unhealthy)?;
        let counts = Statement::some_counts(self.word_index.on);
        let asked = self.ask(&counts).await.map_err(unhealthy)?;
        asked.map_err(|failure| unhealthy(self.error(failure)))?;
        Ok(())
    }
}
