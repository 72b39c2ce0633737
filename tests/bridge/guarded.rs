//! Brokers that demand TLS and signed requests, from the client and from the whole bridge.

use std::{path::PathBuf, sync::Arc, time::Duration};

use nsqbridge::rocketmq::{
    Cluster, ClusterConfig, ClusterError, Outcome, Producer, QueueReader, connection::RequestError,
    credentials::Credentials, group::Member, offsets::Commit, reader::Pull, tls::Tls,
};
use nsqbridge_brokers::{Line, Rig, RigOptions, rocketmq::Settings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{io::copy_bidirectional, net::TcpStream, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    bridge::{Consumer, Gateway, SOON, To, create_channel, eventually, own, topic, transfer},
    scripted::{Peer, Reply, message},
};

pub const ACCESS_KEY: &str = "bridge-admin";
pub const SECRET_KEY: &str = "bridge-secret-1";
const BUDGET: Duration = Duration::from_secs(4);

/// An authority, and a certificate for 127.0.0.1 signed by it, as files.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let made = Self { folder };
        std::fs::write(made.path("ca.pem"), authority.pem()).unwrap();
        std::fs::write(made.path("server.pem"), certificate.pem()).unwrap();
        std::fs::write(made.path("server.key"), key.serialize_pem()).unwrap();
        let config = format!(
            "tls.test.mode.enable=false\ntls.server.need.client.auth=none\n\
             tls.server.keyPath={}\ntls.server.certPath={}\ntls.client.authServer=true\ntls.client.trustCertPath={}\n",
            made.path("server.key").display(),
            made.path("server.pem").display(),
            made.path("ca.pem").display(),
        );
        std::fs::write(made.path("tls.properties"), config).unwrap();
        made
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// TLS only, both as a server and towards name servers.
    fn demanded(&self) -> Settings {
        Settings::new()
            .jvm("-Dtls.server.mode=enforcing")
            .jvm("-Dtls.enable=true")
            .jvm(&format!("-Dtls.config.file={}", self.path("tls.properties").display()))
    }
}

/// Access control as each line configures it; one administrator.
pub fn access_control(line: Line, settings: Settings) -> Settings {
    match line {
        Line::V5 => {
            let package = "org.apache.rocketmq.auth";
            settings
                .conf("authenticationEnabled", true)
                .conf(
                    "authenticationProvider",
                    format!("{package}.authentication.provider.DefaultAuthenticationProvider"),
                )
                .conf(
                    "authenticationMetadataProvider",
                    format!("{package}.authentication.provider.LocalAuthenticationMetadataProvider"),
                )
                .conf(
                    "initAuthenticationUser",
                    format!(r#"{{"username":"{ACCESS_KEY}","password":"{SECRET_KEY}"}}"#),
                )
                .conf(
                    "innerClientAuthenticationCredentials",
                    format!(r#"{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}"#),
                )
                .conf("authorizationEnabled", true)
                .conf(
                    "authorizationProvider",
                    format!("{package}.authorization.provider.DefaultAuthorizationProvider"),
                )
                .conf(
                    "authorizationMetadataProvider",
                    format!("{package}.authorization.provider.LocalAuthorizationMetadataProvider"),
                )
        }
        Line::V4 => settings.conf("aclEnable", true).file(
            "conf/plain_acl.yml",
            &format!("accounts:\n- accessKey: {ACCESS_KEY}\n  secretKey: {SECRET_KEY}\n  admin: true\n"),
        ),
    }
}

fn client(rig: &Rig, tls: Option<Tls>, secret: Option<&str>) -> Cluster {
    let mut config = ClusterConfig::new(vec![rig.name_server.addr().to_string()]);
    config.tls = tls;
    config.credentials = secret.map(|secret| Credentials {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: secret.to_owned(),
        security_token: None,
    });
    Cluster::new(config)
}

async fn brokers_that_demand_tls_and_signatures_are_served(line: Line) {
    let certificates = Certificates::make();
    let options = RigOptions {
        brokers: 1,
        nsqds: 1,
        name_server: certificates.demanded(),
        broker: access_control(line, certificates.demanded()),
        ..RigOptions::default()
    };
    let rig = own(line, &options);
    let tls = Tls::new(&certificates.path("ca.pem"), None).unwrap();

    let trusted = client(&rig, Some(tls.clone()), Some(SECRET_KEY));
    // Until the broker has registered, which it tries every ten seconds, there is nowhere to create a topic, and that is an
    // error.
    eventually("the broker has registered", SOON, async || match trusted.create_topic("guarded", 1).await {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error, ClusterError::NoBroker), "{error}");
            false
        }
    })
    .await;
    trusted.create_group("guarded-group").await.unwrap();
    let queue = trusted.route("guarded").await.unwrap().write_queues[0].clone();
    let producer = Producer::new(trusted.clone(), "p");
    let known = message(b"signed");
    let key = known.unique_key;
    for messages in [vec![known], vec![message(b"in a"), message(b"batch")]] {
        let outcome = producer.send(&queue, &messages, BUDGET).await;
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    }
    let reader = QueueReader::new(trusted.clone(), "guarded-group");
    let mut read = 0;
    while read < 3 {
        match reader.pull(&queue, read, 32, Duration::from_secs(2)).await.unwrap() {
            Pull::Messages { messages, problem: None, .. } => read += messages.len() as i64,
            other => assert!(matches!(other, Pull::Empty { .. }), "{other:?}"),
        }
    }
    assert_eq!(trusted.try_commit("guarded-group", &queue, 3).await.unwrap(), Commit::Taken);
    let member = Member::join(trusted.clone(), "guarded-group", "guarded").await.unwrap();
    assert_eq!(member.lock(std::slice::from_ref(&queue)).await.granted.len(), 1);
    assert_eq!(member.members().await.unwrap().len(), 1);
    member.leave().await;
    eventually("found by its key", SOON, async || {
        trusted.messages_by_unique_key("guarded", key.as_str()).await.unwrap().len() == 1
    })
    .await;

    // Not the message's fault: it is certainly not stored, and may be sent again once the credentials are right.
    for (secret, why) in [(Some("wrong-secret"), "ignature"), (None, "")] {
        let producer = Producer::new(client(&rig, Some(tls.clone()), secret), "p");
        let outcome = producer.send(&queue, &[message(b"x")], BUDGET).await;
        assert!(matches!(&outcome, Outcome::NotSent(failure) if failure.reason.contains(why)), "{outcome:?}");
    }
    assert_eq!(trusted.queue_bounds(&queue).await.unwrap().max, 3, "nothing of it was stored");
    let plain = client(&rig, None, Some(SECRET_KEY)).route("guarded").await;
    assert!(plain.is_err(), "a name server that demands TLS answered without it: {plain:?}");
    let stranger = Tls::new(&Certificates::make().path("ca.pem"), None).unwrap();
    let distrusted = client(&rig, Some(stranger), Some(SECRET_KEY)).route("guarded").await.unwrap_err();
    assert!(distrusted.to_string().contains("certificate"), "{distrusted}");

    // The whole bridge, by its flags.
    std::fs::write(certificates.path("secret"), format!("{SECRET_KEY}\n")).unwrap();
    let (ca, secret) = (certificates.path("ca.pem"), certificates.path("secret"));
    let flags = [
        "--rocketmq-tls-ca",
        ca.to_str().unwrap(),
        "--access-key",
        ACCESS_KEY,
        "--secret-key-file",
        secret.to_str().unwrap(),
    ];
    let topic = topic("guarded");
    create_channel(&rig.nsqds[0], &topic, "ch").await;
    let gateway = Gateway::start(&rig.name_server, &flags).await;
    let _relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &flags);
    let consumer = Consumer::start(&[&rig.nsqds[0]], &topic, "ch");
    gateway.publish(&topic, "through").await;
    assert_eq!(consumer.wait_for(1).await, ["through"]);
}

on_both_lines!(brokers_that_demand_tls_and_signatures_are_served);

#[tokio::test]
async fn a_handshake_slower_than_the_first_request_can_wait_serves_the_next_one() {
    let peer = Peer::start(1, |_, _| Reply::Silence).await;
    let certificates = Certificates::make();
    let chain = CertificateDer::pem_file_iter(certificates.path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let busy = async {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), peer.address.clone());
            connections.spawn(async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let mut stream = acceptor.accept(stream).await?;
                copy_bidirectional(&mut stream, &mut TcpStream::connect(behind).await?).await
            });
        }
    };
    let mut config = ClusterConfig::new(vec![address.clone()]);
    config.tls = Some(Tls::new(&certificates.path("ca.pem"), None).unwrap());
    config.request_timeout = Duration::from_millis(300);
    let cluster = Cluster::new(config);
    let asking = async {
        let first = cluster.version(&address).await;
        assert!(matches!(&first, Err(ClusterError::Request(RequestError::NotSent { .. }))), "{first:?}");
        eventually("it is answered", SOON / 10, async || cluster.version(&address).await.is_ok()).await;
    };
    tokio::select! {
        () = busy => unreachable!("the listener ended"),
        () = asking => {}
    }
}
