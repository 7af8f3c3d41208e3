//! A publisher for programs that seldom publish, if ever.

use async_trait::async_trait;
use tokio::sync::OnceCell;
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{Message, TraceContext};

use crate::config::AmqpConfig;
use crate::publisher::AmqpPublisher;

/// An [`AmqpPublisher`] that is started when it is first asked to publish, and then stays: most programs that can redrive
/// dead letters never do.
#[derive(Debug)]
pub struct OnDemandPublisher {
    config: AmqpConfig,
    started: OnceCell<AmqpPublisher>,
}

impl OnDemandPublisher {
    /// Makes it; nothing is looked at before it is asked to publish. Settings that cannot be used, and a start that
    /// fails, are *unavailable* then, and the next call tries again.
    pub const fn new(config: AmqpConfig) -> Self {
        Self {
            config,
            started: OnceCell::const_new(),
        }
    }
}

#[async_trait]
impl MessagePublisher for OnDemandPublisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let started = self
            .started
            .get_or_try_init(async || AmqpPublisher::start(self.config.clone()));
        match started.await {
            Ok(publisher) => publisher.publish(messages, trace).await,
            // The settings were checked when the program began; a file that they name may be gone since, and come back.
            Err(error) => {
                let error = PublishError::unavailable(error.to_string());
                Err(Unpublished::all(messages.len(), &error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_domain::MessageId;

    use super::*;

    /// A certificate of nobody, whose key was thrown away.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBeTCCAR+gAwIBAgIUNLxzXBsAg4QOICNHG9fw700y94kwCgYIKoZIzj0EAwIw\n\
        ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyOTE3MTMzOVoYDzIxMjYxMTA1MTcx\n\
        MzM5WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
        AASrM1aUteFp5Y3rA6sPb97iIMmHOr0e34PfAHL8S4tOk2/+7zsovpw0CVhjt2T+\n\
        VZ17mwozxq4aWbjrqSIi/sh4o1MwUTAdBgNVHQ4EFgQUYgh8T0+9BzffdrwziDz+\n\
        iKIQO8owHwYDVR0jBBgwFoAUYgh8T0+9BzffdrwziDz+iKIQO8owDwYDVR0TAQH/\n\
        BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAFuRDY4jBwPLTMG8EoHb3dQR85o8rK\n\
        GlipKgblbe0V2AIhAP4h4vD7zH1jZykV97mIdxQGkJnEUbdDwk6DUlWqknWr\n\
        -----END CERTIFICATE-----\n";

    #[tokio::test]
    async fn a_start_that_failed_is_tried_again() {
        let folder = std::env::temp_dir().join(format!("warren-on-demand-{}", MessageId::generate()));
        std::fs::create_dir(&folder).unwrap();
        let authorities = folder.join("authorities.pem");
        let publisher = OnDemandPublisher::new(AmqpConfig {
            url: "amqps://127.0.0.1:1".into(),
            tls_ca_file: Some(authorities.clone()),
            ..AmqpConfig::default()
        });
        let message = || {
            let line = format!("{{\"id\":\"{}\",\"body\":\"x\"}}", MessageId::generate());
            Message::from_json(line.as_bytes()).unwrap()
        };
        let said = async || {
            let unpublished = publisher.publish(vec![message()], None).await.unwrap_err();
            unpublished.errors[0].1.to_string()
        };
        let first = said().await;
        assert!(first.contains("authorities.pem"), "{first}");
        std::fs::write(&authorities, AUTHORITY).unwrap();
        let second = said().await;
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!second.contains("authorities.pem"), "{second}");
    }
}
