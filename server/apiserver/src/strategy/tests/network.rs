use expect_test::expect;

use super::{check_create, check_update};

#[test]
fn services() {
    check_create(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec:
  clusterIP: 127.43.0.9
  clusterIPs: [127.43.0.9]
  sessionAffinity: ClientIP
  type: NodePort
  ports: [{port: 80, nodePort: 30080}]
",
        expect![[r#"
            spec:
              clusterIP: 127.43.0.9
              clusterIPs:
              - 127.43.0.9
              externalTrafficPolicy: Cluster
              internalTrafficPolicy: Cluster
              ports:
              - nodePort: 30080
                port: 80
                protocol: TCP
                targetPort: 80
              sessionAffinity: ClientIP
              sessionAffinityConfig:
                clientIP:
                  timeoutSeconds: 10800
              type: NodePort
            status:
              loadBalancer: {}
        "#]],
    );
}

#[test]
fn faults_of_services() {
    check_create(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec:
  externalTrafficPolicy: Local
  allocateLoadBalancerNodePorts: true
  ports:
  - {port: 80, nodePort: 30080}
  - {port: 0, name: a, protocol: ICMP}
  - {port: 80, name: a, targetPort: Web}
",
        expect![[r#"
            spec.ports[0].name: Required value
            spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
            spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[2].name: Duplicate value: "a"
            spec.ports[2].targetPort: Invalid value: "Web": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
            spec.ports[2]: Duplicate value: {"port":80,"protocol":"TCP"}
            spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'
            spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: Service
metadata: {name: out, namespace: ns}
spec: {type: ExternalName, externalName: UPPER, clusterIPs: ['1.2.3.4']}
",
        expect![[r#"
            spec.clusterIPs: Forbidden: may not be set for ExternalName services
            spec.externalName: Invalid value: "UPPER": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]],
    );
}

#[test]
fn services_that_change() {
    let balanced = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {type: LoadBalancer, ports: [{port: 80}]}
";
    check_update(
        balanced,
        "",
        "{spec: {type: ClusterIP}}",
        expect![[r#"
        changed
    "#]],
    );
    check_update(
        balanced,
        "status",
        "{status: {loadBalancer: {ingress: [{ip: x}, {hostname: 1.2.3.4}]}}}",
        expect![[r#"
        status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
        status.loadBalancer.ingress[1].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
    "#]],
    );
}

#[test]
fn endpoints_and_slices() {
    check_create(
        "
apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: ns}
subsets:
- addresses: [{ip: 127.42.0.3}, {ip: 169.254.0.1}, {ip: x}]
  ports: [{port: 80}, {port: 81, name: b}]
- ports: [{port: 1}]
",
        expect![[r#"
            subsets[0].addresses[1].ip: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)
            subsets[0].addresses[2].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            subsets[0].ports[0].name: Required value
            subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`
        "#]],
    );
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: ns}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [127.42.0.3]}]
";
    check_create(
        slice,
        expect![[r#"
            addressType: IPv4
            endpoints:
            - addresses:
              - 127.42.0.3
            ports:
            - name: ''
              port: 80
              protocol: TCP
        "#]],
    );
    check_update(
        slice,
        "",
        "{addressType: IPv6, endpoints: [{addresses: []}]}",
        expect![[r#"
        endpoints[0].addresses: Required value: must contain at least 1 address
        addressType: Invalid value: "IPv6": field is immutable
    "#]],
    );
}

#[test]
fn ingresses() {
    check_create(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: ns}
spec:
  rules:
  - host: 1.2.3.4
    http:
      paths:
      - {path: web, pathType: Prefix, backend: {service: {name: web}}}
      - {pathType: Odd, backend: {}}
      - {path: /a/../b, pathType: Exact, backend: {service: {name: 1web, port: {number: 80, name: http}}}}
",
        expect![[r#"
            spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
            spec.rules[0].http.paths[0].path: Invalid value: "web": must be an absolute path
            spec.rules[0].http.paths[0].backend: Required value: port name or number is required
            spec.rules[0].http.paths[1].pathType: Unsupported value: "Odd": supported values: "Exact", "ImplementationSpecific", "Prefix"
            spec.rules[0].http.paths[1].backend: Required value: resource or service backend is required
            spec.rules[0].http.paths[2].path: Invalid value: "/a/../b": must not contain '/../'
            spec.rules[0].http.paths[2].backend.service.name: Invalid value: "1web": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.rules[0].http.paths[2].backend: Invalid value: "": cannot set both port name & port number
        "#]],
    );
}

#[test]
fn network_policies() {
    check_create(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: ns}
spec:
  podSelector: {}
  egress:
  - ports: [{port: 80, endPort: 90}]
    to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
",
        expect![[r#"
            spec:
              egress:
              - ports:
                - endPort: 90
                  port: 80
                  protocol: TCP
                to:
                - ipBlock:
                    cidr: 10.0.0.0/8
                    except:
                    - 10.1.0.0/16
              podSelector: {}
              policyTypes:
              - Ingress
              - Egress
        "#]],
    );
    check_create(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: ns}
spec:
  podSelector: {}
  ingress:
  - ports: [{port: http, endPort: 90}, {port: 90, endPort: 80}]
    from: [{}, {ipBlock: {cidr: 10.0.0.0/8, except: [11.1.0.0/16]}}]
",
        expect![[r#"
            spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric
            spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`
            spec.ingress[0].from[0]: Required value: must specify a peer
            spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: "11.1.0.0/16": must be a strict subset of `cidr`
        "#]],
    );
}
