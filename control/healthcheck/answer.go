// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// answer is the body of what is answered.
type answer struct {
	Service             service `json:"service"`
	LocalEndpoints      int     `json:"localEndpoints"`
	ServiceProxyHealthy bool    `json:"serviceProxyHealthy"`
}

type service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// answer says how the service of the port is: 200 where traffic that comes to this node is answered, else 503.
func (s *Server) answer(w http.ResponseWriter, port uint16) {
	s.mu.Lock()
	check, there := s.checks[port]
	s.mu.Unlock()
	if !there {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	healthy := s.healthy()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(check.Local))
	if check.Local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer{service{check.Namespace, check.Name}, check.Local, healthy})
}
