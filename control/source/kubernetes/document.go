// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/viaduct-net/viaduct/control/model"
)

// document is an object of a custom resource: JSON for model.FromServer, which decodes it once and for all. It is
// without managed fields, which are most of an object with statuses, and which all who decode it would walk over.
type document struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	text   []byte
	status []byte
}

type documentList struct {
	metav1.TypeMeta
	metav1.ListMeta `json:"metadata"`
	Items           []document `json:"items"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *document) UnmarshalJSON(text []byte) error {
	var head struct {
		metav1.TypeMeta
		Metadata struct {
			Name            string            `json:"name"`
			UID             types.UID         `json:"uid,omitempty"`
			ResourceVersion string            `json:"resourceVersion,omitempty"`
			Annotations     map[string]string `json:"annotations,omitempty"` // those that are read, and bookmarks'
			Labels          map[string]string `json:"labels,omitempty"`
			Generation      int64             `json:"generation,omitempty"`
		} `json:"metadata"`
		Spec   json.RawMessage `json:"spec,omitempty"`
		Status json.RawMessage `json:"status,omitempty"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	d.TypeMeta = head.TypeMeta
	d.ObjectMeta = metav1.ObjectMeta{
		Name:            head.Metadata.Name,
		UID:             head.Metadata.UID,
		ResourceVersion: head.Metadata.ResourceVersion,
		Annotations:     head.Metadata.Annotations,
		Generation:      head.Metadata.Generation,
	}
	d.status = head.Status
	head.Status, head.Metadata.UID, head.Metadata.ResourceVersion = nil, "", ""
	head.Metadata.Annotations = read(head.Metadata.Annotations)
	var err error
	d.text, err = json.Marshal(head)
	return err
}

// read are the annotations that say something here: others may be large, and change without a change.
func read(annotations map[string]string) (some map[string]string) {
	for k, v := range annotations {
		if !model.Annotation(k) {
			continue
		}
		if some == nil {
			some = map[string]string{}
		}
		some[k] = v
	}
	return some
}

// DeepCopyObject implements runtime.Object.
func (d *document) DeepCopyObject() runtime.Object {
	c := &document{TypeMeta: d.TypeMeta, text: bytes.Clone(d.text), status: bytes.Clone(d.status)}
	d.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *documentList) DeepCopyObject() runtime.Object {
	c := &documentList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*document))
	}
	return c
}
