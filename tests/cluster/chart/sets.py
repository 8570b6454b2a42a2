"""Sets of values: those that somebody would install with, and those that the chart has to refuse, with what it says."""

from __future__ import annotations

ACCEPTED: dict[str, str] = {
    "nothing": "",
    "postgresql with three replicas": """
        replicaCount: 3
        store:
          type: postgresql
          postgresql:
            host: postgres.databases.svc
            passwordSecret: {name: postgres}
            parameters: {sslmode: verify-full, sslrootcert: /etc/postgres/ca crt.pem}
        extraVolumes: [{name: ca, secret: {secretName: postgres-ca}}]
        extraVolumeMounts: [{name: ca, mountPath: /etc/postgres, readOnly: true}]
    """,
    "firestore with a key": """
        replicaCount: 2
        store: {type: firestore, firestore: {project: my-project, credentialsSecret: {name: key}}}
    """,
    "firestore with a workload identity": """
        store: {type: firestore, firestore: {project: my-project, collection: jobs}}
        serviceAccount: {annotations: {iam.gke.io/gcp-service-account: jobs@my-project.iam.gserviceaccount.com}}
    """,
    "a store's URL in a Secret, and a migration before": """
        replicaCount: 2
        store: {type: secret, secret: {name: store, key: uri}}
        migration: {hook: true}
    """,
    "some namespaces": """
        namespaces: [default, kube-public]
    """,
    "some namespaces with references": """
        namespaces: [default, kube-public]
        rbac: {secrets: [default], configMaps: ["*"]}
    """,
    "references everywhere": """
        rbac: {secrets: ["*"], configMaps: [default]}
    """,
    "its own namespace only": """
        namespaces: [sjobs]
    """,
    "an image by digest from a registry": """
        image: {repository: registry.example.com:5000/team/scheduledjob, digest: "sha256:%s", pullPolicy: Always}
        imagePullSecrets: [{name: registry}]
    """
    % ("0123456789abcdef" * 4),
    "every setting": """
        settings:
          capacity: 100000
          podCapacity: 10
          namespaceShare: 0.5
          namespaceWeights: [team-a=2, team-b=0.5]
          inlineShellNamespaces: ["*"]
          acceptUnconfinedShell: true
          inlineHttpAllow: [10.0.0.0/8, metadata.internal]
          inlineHttpProxies: [proxy.internal]
          lease: 30s
          heartbeat: 1m30s
          grace: 10m
          statusBudget: 50
          sweepInterval: 5m
          podImage: registry.example.com/jobs:1
          podSecurity: restricted
          plugins: true
          logLevel: debug
          logFormat: console
    """,
    "settings that say no": """
        settings: {acceptUnconfinedShell: false, plugins: false, grace: 0s}
    """,
    "everything of monitoring": """
        metrics:
          port: 9090
          serviceMonitor:
            enabled: true
            interval: 30s
            labels: {release: prometheus}
            metricRelabelings: [{sourceLabels: [__name__], regex: process_.*, action: drop}]
          prometheusRule: {enabled: true, labels: {release: prometheus}}
          dashboard: {enabled: true, annotations: {folder: Jobs}}
    """,
    "a network policy": """
        networkPolicy:
          enabled: true
          metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
          egress:
            - to: [{ipBlock: {cidr: 10.0.0.0/8}}]
              ports: [{port: 5432}, {port: 443}]
    """,
    "a network policy for ingress alone": """
        networkPolicy: {enabled: true}
    """,
    "where Pods are put": """
        replicaCount: 3
        store: {type: secret, secret: {name: store}}
        affinity:
          podAntiAffinity:
            requiredDuringSchedulingIgnoredDuringExecution:
              - topologyKey: kubernetes.io/hostname
                labelSelector: {matchLabels: {app.kubernetes.io/name: scheduledjob}}
        nodeSelector: {kubernetes.io/os: linux}
        tolerations: [{key: batch, operator: Exists, effect: NoSchedule}]
        topologySpreadConstraints:
          - {topologyKey: topology.kubernetes.io/zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule}
        priorityClassName: system-cluster-critical
        podDisruptionBudget: {maxUnavailable: 50%}
        strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
    """,
    "labels and annotations": """
        commonLabels: {team: platform}
        podLabels: {sidecar.istio.io/inject: "false"}
        podAnnotations: {example.com/a: b}
        annotations: {reloader.stakater.com/auto: "true"}
        crds: {annotations: {argocd.argoproj.io/sync-wave: "-10"}}
        metrics: {dashboard: {enabled: true}}
        migration: {hook: true}
        store: {type: secret, secret: {name: store}}
    """,
    "extras": """
        extraArgs: ["--log-level=debug"]
        extraEnv:
          - {name: HTTPS_PROXY, value: "http://proxy:3128"}
          - {name: PGSSLMODE, valueFrom: {secretKeyRef: {name: store, key: mode}}}
        extraEnvFrom: [{secretRef: {name: more}}]
        extraVolumes: [{name: jobs, configMap: {name: jobs}}]
        extraVolumeMounts: [{name: jobs, mountPath: /etc/jobs}]
        scratch: {sizeLimit: 5Gi, medium: Memory}
        resources: {requests: {cpu: "1", memory: 1Gi}, limits: {memory: 6Gi}}
    """,
    "nothing that others make": """
        crds: {install: false}
        rbac: {create: false, aggregate: false}
        serviceAccount: {create: false, name: jobs}
    """,
    "names": """
        nameOverride: jobs
        fullnameOverride: nightly
        memoryLease: nightly.lease
        instance: production/eu
    """,
    "a long grace": """
        settings: {grace: 1h}
        terminationGracePeriodSeconds: 3700
    """,
    "no replicas": """
        replicaCount: 0
        crds: {keep: false}
    """,
}

REFUSED: dict[str, tuple[str, str]] = {
    "several replicas in memory": (
        "replicaCount: 3",
        "'/replicaCount': value must be '1 while the store is in memory: several replicas need a shared store "
        "(store.type)'",
    ),
    "rolling update in memory": (
        "strategy: {type: RollingUpdate}",
        "'/strategy/type': value must be 'Recreate while the store is in memory: two replicas can\\'t have it at the "
        "same time'",
    ),
    "migration of memory": (
        "migration: {hook: true}",
        "'/migration/hook': value must be 'false while the store is in memory: there is nothing to migrate'",
    ),
    "an unknown key": ("replicas: 2", "at '': additional properties 'replicas' not allowed"),
    "an unknown key below": ("store: {typ: memory}", "at '/store': additional properties 'typ' not allowed"),
    "an unknown setting": ("settings: {podcapacity: 5}", "at '/settings': additional properties 'podcapacity'"),
    "words for a number": ('replicaCount: "two"', "at '/replicaCount': got string, want integer"),
    "a negative number": ("replicaCount: -1", "at '/replicaCount': minimum: got -1, want 0"),
    "an unknown store": (
        "store: {type: redis}",
        "at '/store/type': value must be one of 'memory', 'postgresql', 'firestore', 'secret'",
    ),
    "postgresql without a host": (
        "store: {type: postgresql}",
        "'/store/postgresql/host': value must be 'set: store.type postgresql needs the server\\'s host name'",
    ),
    "a host without postgresql": (
        "store: {postgresql: {host: db}}",
        "'/store/type': value must be 'postgresql (store.postgresql.host is set)'",
    ),
    "two stores": (
        "store: {type: postgresql, postgresql: {host: db}, firestore: {project: my-project}}",
        "'/store/type': value must be 'firestore (store.firestore.project is set)'",
    ),
    "a Secret that is not named": (
        "store: {type: secret}",
        "'/store/secret/name': value must be 'set: store.type secret needs the Secret that contains the URL'",
    ),
    "a password in the values": (
        "store: {type: postgresql, postgresql: {host: db, parameters: {password: hunter2}}}",
        "'/store/postgresql/parameters/password': value must be 'left out: it comes from a Secret",
    ),
    "a password with the user": (
        'store: {type: postgresql, postgresql: {host: db, user: "me:hunter2"}}',
        "'/store/postgresql/user': value must be 'the name of a user; its password comes from the Secret",
    ),
    "a URL for a host": (
        'store: {type: postgresql, postgresql: {host: "postgresql://db"}}',
        "'/store/postgresql/host': value must be 'a host name, without scheme, user and port'",
    ),
    "a bare number for a length of time": (
        "settings: {lease: 15}",
        "'/settings/lease': value must be 'a duration such as 45s or 1h30m, or null'",
    ),
    "too much capacity": (
        "settings: {capacity: 1000000}",
        "'/settings/capacity': value must be 'a whole number from 1 to 100000, or null'",
    ),
    "an unknown level": (
        "settings: {logLevel: verbose}",
        "'/settings/logLevel': value must be one of <nil>, 'debug', 'info', 'warning', 'error'",
    ),
    "no namespace": (
        "namespaces: [Team A]",
        "'/namespaces/0': value must be 'the name of a namespace: lower-case letters, digits and -",
    ),
    "all namespaces and one": (
        'settings: {inlineShellNamespaces: ["*", a]}',
        "'/settings/inlineShellNamespaces': maxItems: got 2, want 1",
    ),
    "unconfined shell for nobody": (
        "settings: {acceptUnconfinedShell: true}",
        "'/settings/acceptUnconfinedShell': value must be 'left out: no namespace may run shell jobs inline",
    ),
    "a tag in the repository": (
        "image: {repository: 'scheduledjob:1.0'}",
        "'/image/repository': value must be 'an image without tag and digest",
    ),
    "half a digest": ("image: {digest: sha256:abc}", "'/image/digest': value must be 'a digest: sha256: and 64 hex"),
    "a label that selects": (
        "podLabels: {app.kubernetes.io/name: mine}",
        "value must be 'left out: the chart selects Pods by this label'",
    ),
    "a variable that the chart sets": (
        "extraEnv: [{name: SJOB_STORE, value: 'memory:'}]",
        "'/extraEnv/0/name': value must be 'a variable that the chart does not set itself",
    ),
    "a number in a variable": ("extraEnv: [{name: A, value: 1}]", "'/extraEnv/0/value': value must be 'text: put it"),
    "a flag that the chart sets": (
        'extraArgs: ["--store=memory:"]',
        "'/extraArgs/0': value must be 'a flag such as --log-level=debug (quoted); the store and the instance have",
    ),
    "roles for the default account": (
        "serviceAccount: {create: false}",
        "'/serviceAccount/name': value must be 'set: with serviceAccount.create false and rbac.create true",
    ),
    "a rolling Recreate": (
        "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}",
        "'/strategy/rollingUpdate': value must be 'left out: it goes with type RollingUpdate'",
    ),
    "a port of root": ("metrics: {port: 80}", "at '/metrics/port': minimum: got 80, want 1,024"),
    # What a schema can't compare, the chart does.
    "less grace than the operator takes": (
        "{settings: {grace: 30s}, terminationGracePeriodSeconds: 30}",
        "terminationGracePeriodSeconds: 30 is less than settings.grace (30s) plus 8 seconds: jobs would be killed "
        "before they could be handed to another replica; write 38 or more, or leave it out",
    ),
    "Secrets where nothing is watched": (
        "{namespaces: [a, b], rbac: {secrets: [c]}}",
        'rbac.secrets: the operator does not watch "c" (it watches a, b): add it to namespaces, or leave it out here',
    ),
    "inline shell where nothing is watched": (
        "{namespaces: [a], settings: {inlineShellNamespaces: [b]}}",
        'settings.inlineShellNamespaces: the operator does not watch "b" (it watches a)',
    ),
    "a shared store without a name for the cluster": (
        "store: {type: secret, secret: {name: store}}",
        "instance: the uid of the cluster can't be read here, and operators of other clusters with the same store "
        "would count as this one: set a name that no other installation has",
    ),
}
