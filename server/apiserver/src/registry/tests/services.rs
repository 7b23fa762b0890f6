use expect_test::expect;

use crate::testing::check_script;

#[tokio::test(start_paused = true)]
async fn addresses_are_given_kept_refused_and_released() {
    check_script(
        r#"
        GET /api/v1/namespaces/default/services/kubernetes | spec.clusterIP spec.clusterIPs spec.ports
        POST /api/v1/namespaces/default/services {"metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}} | spec.clusterIP spec.clusterIPs spec.ipFamilies spec.ipFamilyPolicy
        POST /api/v1/namespaces/default/services {"metadata":{"name":"b"},"spec":{"clusterIP":"127.43.7.7","ports":[{"port":80}]}} | spec.clusterIP spec.clusterIPs
        POST /api/v1/namespaces/default/services {"metadata":{"name":"c"},"spec":{"clusterIP":"127.43.7.7","ports":[{"port":80}]}} | code message
        POST /api/v1/namespaces/default/services {"metadata":{"name":"c"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80}]}} | code message
        POST /api/v1/namespaces/default/services {"metadata":{"name":"h"},"spec":{"clusterIP":"None","ports":[{"port":80}]}} | spec.clusterIP spec.clusterIPs
        PUT /api/v1/namespaces/default/services/b {"metadata":{"name":"b"},"spec":{"ports":[{"port":81}]}} | spec.clusterIP spec.ports.0.port
        PATCH /api/v1/namespaces/default/services/b {"spec":{"clusterIP":"127.43.7.8","clusterIPs":["127.43.7.8"]}} | code message
        DELETE /api/v1/namespaces/default/services/b | metadata.name
        POST /api/v1/namespaces/default/services {"metadata":{"name":"c"},"spec":{"clusterIP":"127.43.7.7","ports":[{"port":80}]}} | spec.clusterIP
        "#,
        expect![[r#"
            200 spec.clusterIP="127.43.0.1" spec.clusterIPs=["127.43.0.1"] spec.ports=[{"name":"https","port":443,"protocol":"TCP","targetPort":6443}]
            201 spec.clusterIP="127.43.158.20" spec.clusterIPs=["127.43.158.20"] spec.ipFamilies=["IPv4"] spec.ipFamilyPolicy="SingleStack"
            201 spec.clusterIP="127.43.7.7" spec.clusterIPs=["127.43.7.7"]
            422 code=422 message="Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"127.43.7.7\"]: failed to allocate IP 127.43.7.7: provided IP is already allocated"
            422 code=422 message="Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is 127.43.0.0/16"
            201 spec.clusterIP="None" spec.clusterIPs=["None"]
            200 spec.clusterIP="127.43.7.7" spec.ports.0.port=81
            422 code=422 message="Service \"b\" is invalid: spec.clusterIPs[0]: Invalid value: [\"127.43.7.8\"]: may not change once set"
            200 metadata.name="b"
            201 spec.clusterIP="127.43.7.7"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn node_ports_follow_the_type() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/services {"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"name":"x","port":80,"nodePort":30080},{"name":"y","port":53,"protocol":"UDP"},{"name":"z","port":53,"protocol":"TCP"}]}} | spec.ports.0.nodePort spec.ports.1.nodePort spec.ports.2.nodePort
        POST /api/v1/namespaces/default/services {"metadata":{"name":"b"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}} | code message
        POST /api/v1/namespaces/default/services {"metadata":{"name":"b"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}} | code message
        PUT /api/v1/namespaces/default/services/a {"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"name":"x","port":80}]}} | spec.ports.0.nodePort
        PATCH /api/v1/namespaces/default/services/a {"spec":{"type":"ClusterIP"}} | spec.type spec.ports
        POST /api/v1/namespaces/default/services {"metadata":{"name":"b"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}} | spec.ports.0.nodePort
        PATCH /api/v1/namespaces/default/services/b {"spec":{"type":"ExternalName","externalName":"example.org"}} | spec.clusterIP spec.clusterIPs spec.ports.0.nodePort
        PATCH /api/v1/namespaces/default/services/b {"spec":{"type":"ClusterIP","externalName":null}} | spec.type spec.ports.0.port
        POST /api/v1/namespaces/default/services {"metadata":{"name":"l"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":80}]}} | spec.ports.0.nodePort spec.healthCheckNodePort
        PATCH /api/v1/namespaces/default/services/l {"spec":{"type":"ClusterIP","externalTrafficPolicy":null}} | spec.ports.0.nodePort spec.healthCheckNodePort
        "#,
        expect![[r#"
            201 spec.ports.0.nodePort=30080 spec.ports.1.nodePort=30526 spec.ports.2.nodePort=30526
            422 code=422 message="Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
            422 code=422 message="Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
            200 spec.ports.0.nodePort=30080
            200 spec.type="ClusterIP" spec.ports=[{"name":"x","port":80,"protocol":"TCP","targetPort":80}]
            201 spec.ports.0.nodePort=30080
            200 spec.clusterIP=- spec.clusterIPs=- spec.ports.0.nodePort=-
            200 spec.type="ClusterIP" spec.ports.0.port=80
            201 spec.ports.0.nodePort=31776 spec.healthCheckNodePort=32636
            200 spec.ports.0.nodePort=- spec.healthCheckNodePort=-
        "#]],
    )
    .await;
}
